from uuid import NAMESPACE_OID, RFC_4122, UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from choreo.events.ids import is_uuid, named_id, new_id


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_an_id_is_the_uuid_of_its_name(name):
    assert named_id(name) == str(uuid5(NAMESPACE_OID, name))


def test_a_new_id_is_a_random_uuid():
    ids = {new_id() for _ in range(1000)}

    assert len(ids) == 1000
    assert all(is_uuid(one) for one in ids)
    assert {(UUID(one).version, UUID(one).variant) for one in ids} == {(4, RFC_4122)}
