from uuid import NAMESPACE_OID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from choreo.events.ids import named_id


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_an_id_is_the_uuid_of_its_name(name):
    assert named_id(name) == str(uuid5(NAMESPACE_OID, name))
