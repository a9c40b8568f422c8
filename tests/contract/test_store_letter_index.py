"""The promises of every store: the index of dead letters tells which there are, in which group, and about what."""

import time
from dataclasses import replace

import pytest

from choreo.errors import StoreError
from choreo.store import Outcome, Settlement, Verdict
from choreo.store.letters import BEGINNING, Card, Replay, read_subjects
from choreo.store.memory import MemoryStore
from tests.contract.rigs import HANDLER, TERMS, MemoryRig, at, at_once, buried, claim, due, replay, settle

A, B = Card("a" * 16, "<a>", ("ORD-1",)), Card("b" * 16, "<b>", ("ORD-2", "ö"))


@pytest.fixture(params=["memory", "redis", "fused", "cluster"])
def store(request):
    """A store whose clock goes on by itself: letters are told apart by the millisecond."""
    if request.param == "memory":
        return MemoryStore(TERMS)
    return request.getfixturevalue(f"{request.param}_rig").store


def add(store, letter_id, card=A):
    store.add_letter(HANDLER, letter_id, f'"{letter_id}"', (), card)
    time.sleep(0.002)


def groups(store, since=0.0):
    return {one.group[0]: one.count for one in store.letter_groups(HANDLER, since)}


def ids(store, limit=100, **which):
    return [place.id for place in store.letter_places(HANDLER, limit, **which)]


def test_letters_are_counted_by_group_with_the_times_of_the_first_and_the_last(store):
    before = store.now()
    for letter, card in ("l-9", A), ("l-1", B), ("l-5", replace(A, about="<newer>")):
        add(store, letter, card)

    one, other = sorted(store.letter_groups(HANDLER), key=lambda group: group.group)

    assert (one.group, one.about, one.count) == (A.group, "<newer>", 2)
    assert (other.group, other.about, other.count) == (B.group, "<b>", 1)
    assert before - 0.002 <= one.first < other.first == other.last < one.last <= store.now()
    assert store.letter_groups("payment.charge") == []


def test_the_handlers_with_letters_are_told_at_once(store):
    add(store, "l-1")
    store.add_letter("payment.refund", "l-2", "{}")
    store.discard("payment.refund", "l-2")

    assert store.with_letters(["payment.charge", HANDLER, "payment.refund"]) == [HANDLER]
    assert store.with_letters([]) == []


def test_a_letter_that_a_commit_records_is_in_the_index(store):
    store.begin(claim())
    assert settle(store, claim(), Settlement(letter=("l-1", "{}", B))) is Outcome.OK

    assert groups(store) == {"b": 1}
    ((place, card),) = store.letters_about(HANDLER, "ORD-2")
    assert (place.id, card) == ("l-1", replace(B, about=""))


def test_several_letters_of_one_commit_script_do_not_mix_with_what_follows(store):
    store.begin(claim())
    store.schedule(HANDLER, at("old"))
    settlement = Settlement(letter=("l-1", "{}", A), unscheduled=["old"], scheduled=[at("new")])

    assert settle(store, claim(), settlement) is Outcome.OK

    assert due(store) == ["new"]
    assert groups(store) == {"a": 1}


def test_letters_of_some_time_are_counted(store):
    add(store, "l-1")
    add(store, "l-2", B)
    since = store.letter_places(HANDLER, 10)[1].at
    add(store, "l-3")

    assert groups(store, since) == {"a": 1, "b": 1}
    assert groups(store, since + 60) == {}
    (group,) = [one for one in store.letter_groups(HANDLER, since) if one.group == A.group]
    assert group.first == group.last > since
    assert store.letter_count(HANDLER) == 3
    assert store.letter_count(HANDLER, A.group) == 2
    assert store.letter_count(HANDLER, A.group, since) == 1
    assert store.letter_count(HANDLER, "", since) == 2


def test_letters_are_paged_oldest_first(store):
    for letter in ("l-9", "l-1", "l-5", "l-3"):
        add(store, letter, B if letter == "l-1" else A)

    first, second = store.letter_places(HANDLER, 2)
    assert [first.id, second.id] == ["l-9", "l-1"]
    assert ids(store, 2, after=second) == ["l-5", "l-3"]
    assert ids(store, 1, after=BEGINNING, group=A.group) == ["l-9"]
    assert ids(store, group=A.group, after=first) == ["l-5", "l-3"]
    assert ids(store, until=second.at) == ["l-9", "l-1"]
    assert ids(store, until=second.at, group=A.group) == ["l-9"]
    assert ids(store, group="c" * 16) == []


@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_letters_of_one_moment_are_paged_without_a_gap(kind, request):
    rig = request.getfixturevalue(f"{kind}_rig")
    names = [f"l-{number:03}" for number in range(25)]
    for letter in names:
        rig.store.add_letter(HANDLER, letter, "{}", (), A)
    for key in (rig.store._key(HANDLER, "letters", "index"), rig.store._key(HANDLER, "letters", "group", A.group)):
        rig.client.zadd(key, dict.fromkeys(names, 1_000_000))

    assert_paged(rig.store, names)


def test_letters_of_one_moment_are_paged_without_a_gap_in_memory():
    rig, names = MemoryRig(), [f"l-{number:03}" for number in range(25)]
    for letter in names:
        rig.store.add_letter(HANDLER, letter, "{}", (), A)

    assert_paged(rig.store, names)


def assert_paged(store, names):
    found, after = [], BEGINNING
    while page := store.letter_places(HANDLER, 4, after, group=A.group):
        found += [place.id for place in page]
        after = page[-1]
    assert found == names


def test_texts_come_in_the_order_in_which_they_are_asked_for(store):
    add(store, "l-1")
    add(store, "l-2")

    assert store.letter_texts(HANDLER, ["l-2", "?", "l-1"]) == ['"l-2"', None, '"l-1"']
    assert store.letter_texts(HANDLER, []) == []


def test_a_discarded_letter_is_in_no_group(store):
    for letter in ("l-1", "l-2", "l-3"):
        add(store, letter)

    assert store.discard_all(HANDLER, ["l-1", "?", "l-3"]) == [True, False, True]

    assert groups(store) == {"a": 1}
    assert ids(store) == ids(store, group=A.group) == ["l-2"]
    assert [place.id for place, _ in store.letters_about(HANDLER, "ORD-1")] == ["l-2"]
    assert store.discard(HANDLER, "l-2")
    assert groups(store) == {}


def test_a_replayed_letter_is_in_no_group(store):
    buried(store, "l-1", unit="e-1")
    buried(store, "l-2", unit="e-2")
    store.file_letters(HANDLER, {"l-1": A, "l-2": A})

    assert replay(store, HANDLER, "l-1", "e-1", {}, at("replay:l-1"))

    assert groups(store) == {"a": 1}
    assert ids(store) == ["l-2"]


def test_letters_are_replayed_together_and_each_once(store):
    for number in range(20):
        buried(store, f"l-{number}", unit=f"e-{number}")
    replays = [Replay(f"l-{number}", at(f"replay:l-{number}"), f"e-{number}") for number in range(20)]
    missing = Replay("?", at("replay:?"), "e-?")

    answers = at_once(4, lambda _: store.replay_all(HANDLER, [missing, *replays]))

    assert [sum(each) for each in zip(*answers, strict=True)] == [0] + [1] * 20
    assert store.backlog(HANDLER).total == 20
    assert store.letters(HANDLER) == []
    assert all(store.begin(claim("B", f"e-{number}")).verdict is Verdict.RUN for number in range(20))


def test_joins_are_replayed_together_with_their_parts(store):
    for number in (1, 2):
        buried(store, f"l-{number}", unit=f"join:{number}")
    replays = [
        Replay(f"l-{number}", at(f"replay:{number}"), f"join:{number}", {"a": f"<{number}>", "?b": "2"})
        for number in (1, 2)
    ]

    assert store.replay_all(HANDLER, replays) == [True, True]
    assert store.begin(claim("B", "join:2")).parts == {"a": "<2>"}


def test_a_join_whose_parts_wait_again_is_left_and_the_others_are_replayed(store):
    buried(store, "l-1", unit="join:1")
    buried(store, "l-2", unit="e-2")
    replay(store, HANDLER, "l-1", "join:1", {"a": "<a>"}, at("replay:1"))
    store.add_letter(HANDLER, "l-3", "{}")

    answers = store.replay_all(
        HANDLER, [Replay("l-3", at("replay:3"), "join:1", {"a": "<b>"}), Replay("l-2", at("replay:2"), "e-2")]
    )

    assert answers == [False, True]
    assert ids(store) == ["l-3"]


def test_a_letter_without_a_card_is_added_to_the_index_later(store):
    add(store, "l-1")
    add(store, "old-1", None)
    add(store, "old-2", None)

    assert store.unfiled(HANDLER) == ["old-1", "old-2"]
    assert groups(store) == {"a": 1}

    store.file_letters(HANDLER, {"old-1": A, "old-2": B, "gone": B, "l-1": B})

    assert store.unfiled(HANDLER) == []
    assert groups(store) == {"a": 2, "b": 1}
    assert ids(store, group=A.group) == ["l-1", "old-1"]
    store.discard_all(HANDLER, ["l-1", "old-1", "old-2"])
    assert groups(store) == {}


@pytest.mark.parametrize(
    "subjects",
    [(), ("ORD-1",), ("a b", 'x"y', "ö\n\x1b"), ("\ud800",), tuple(f"ORD-{number}" for number in range(20))],
)
def test_the_subjects_of_a_card_are_kept(store, subjects):
    add(store, "l-1", Card.of("c" * 16, "<c>", subjects))

    for subject in subjects:
        ((place, card),) = store.letters_about(HANDLER, subject)
        assert (place.id, tuple(card.subjects)) == ("l-1", subjects)
    assert store.letters_about(HANDLER, "another") == []


@pytest.mark.parametrize("subjects", [[f"ORD-{number}" for number in range(21)], ["x" * 301]])
def test_a_card_without_room_for_its_subjects_may_be_about_any(store, subjects):
    add(store, "l-1", Card.of("c" * 16, "<c>", subjects))

    ((_, card),) = store.letters_about(HANDLER, "anything")

    assert card.subjects is None


def test_letters_about_a_subject_come_oldest_first(store):
    for letter, card in ("l-9", A), ("l-1", B), ("l-5", A):
        add(store, letter, card)
    add(store, "old", None)

    assert [place.id for place, _ in store.letters_about(HANDLER, "ORD-1")] == ["l-9", "l-5"]
    assert store.letters_about("payment.charge", "ORD-1") == []


@pytest.mark.parametrize("text", ["", "{}", "[", "5", "null"])
def test_foreign_subjects_are_none(text):
    assert read_subjects(text) is None


# -- Redis only ------------------------------------------------------------------------------------------------------


def test_what_an_older_choreo_removed_leaves_the_index_with_the_next_look(redis_rig):
    store = redis_rig.store
    for letter in ("l-1", "l-2"):
        add(store, letter)
    redis_rig.client.hdel(store._key(HANDLER, "letters"), "l-1")
    redis_rig.client.zrem(store._key(HANDLER, "letters", "index"), "l-1")
    assert groups(store) == {"a": 2}

    assert store.unfiled(HANDLER) == []

    assert groups(store) == {"a": 1}
    assert [place.id for place, _ in store.letters_about(HANDLER, "ORD-1")] == ["l-2"]


def test_an_older_choreo_that_records_as_many_as_it_removes_is_noticed(redis_rig):
    store = redis_rig.store
    add(store, "l-1")
    add(store, "old", None)
    redis_rig.client.hdel(store._key(HANDLER, "letters"), "l-1")
    redis_rig.client.zrem(store._key(HANDLER, "letters", "index"), "l-1")

    assert store.unfiled(HANDLER) == ["old"]

    store.file_letters(HANDLER, {"old": B})
    assert groups(store) == {"b": 1}


def test_a_letter_that_is_recorded_while_the_index_is_completed_is_kept(redis_rig, monkeypatch):
    store = redis_rig.store
    add(store, "old", None)
    ask, asked = store._calls.ask, []

    def ask_while_another_fails(question):
        answer = ask(question)
        if not asked and answer == [b"old"]:  # the letters; those with a card are asked for next
            asked.append(True)
            add(store, "l-new")
        return answer

    monkeypatch.setattr(store._calls, "ask", ask_while_another_fails)
    assert store.unfiled(HANDLER) == ["old"]

    assert asked
    assert store.letter(HANDLER, "l-new") == '"l-new"'
    assert groups(store) == {"a": 1}


@pytest.mark.parametrize("ending", [("cards",), ("groups",), ("group", A.group)])
def test_a_broken_index_keeps_no_letter_from_being_recorded_replayed_and_discarded(redis_rig, ending):
    store = redis_rig.store
    redis_rig.client.set(store._key(HANDLER, "letters", *ending), "something else")

    add(store, "l-1")
    add(store, "l-2")

    assert store.discard(HANDLER, "l-2")
    assert replay(store, HANDLER, "l-1", None, {}, at("replay:l-1"))
    assert store.letters(HANDLER) == []


def test_an_index_of_other_content_is_an_error_that_names_it(redis_rig):
    redis_rig.client.set(redis_rig.store._key(HANDLER, "letters", "groups"), "something else")

    with pytest.raises(StoreError, match="WRONGTYPE"):
        redis_rig.store.letter_groups(HANDLER)
