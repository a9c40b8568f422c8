"""The promises of every store: pauses of handlers."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from choreo import Service
from choreo.store.pauses import UNSET, Pause
from tests.contract.rigs import HANDLER, RedisRig, at, at_once, due

OTHER = "payment.charge"
WISH = Pause(HANDLER, id="p-1", reason="gateway down, é", by="alice@host")


def now_of(store):
    return datetime.fromtimestamp(store.now(), UTC)


def test_a_handler_is_not_paused_until_it_is(store):
    store.register([HANDLER, OTHER])

    assert store.pauses() == {}
    assert store.pause_of(HANDLER) is None
    assert store.resume(HANDLER) is None


def test_a_pause_is_kept_with_all_that_was_said_until_it_is_resumed(store):
    store.register([HANDLER, OTHER])

    done = store.pause(WISH)

    pause = done.pause
    assert (done.before, done.is_done) == (None, True)
    assert replace(pause, since=UNSET) == WISH
    assert abs(pause.since - now_of(store)) < timedelta(seconds=60)
    assert pause.is_stop
    assert store.pauses() == {HANDLER: pause}
    assert store.pause_of(HANDLER) == pause
    assert store.pauses([OTHER]) == {}
    assert store.resume(HANDLER) == pause
    assert store.pauses() == {}


def test_a_pause_with_an_end_is_as_none_after_it(rig):
    rig.store.register([HANDLER])

    pause = rig.store.pause(WISH, 30.0).pause

    assert pause.until - pause.since == timedelta(seconds=30)
    rig.pass_time(20)
    assert rig.store.pause_of(HANDLER) is not None
    rig.pass_time(15)
    assert rig.store.pause_of(HANDLER) is None
    assert rig.store.pauses() == {}
    assert rig.store.resume(HANDLER) is None
    assert rig.store.pause(WISH, instead_of=None).is_done


def test_another_pause_replaces_the_first_with_its_end(rig):
    first = rig.store.pause(WISH, 30.0).pause

    done = rig.store.pause(replace(WISH, id="p-2", rate=5.0))

    assert done.before == first
    assert done.pause.rate == 5.0
    assert not done.pause.is_stop
    assert done.pause.until is None
    rig.pass_time(40)
    assert rig.store.pause_of(HANDLER) == done.pause


def test_a_pause_is_changed_only_if_it_is_still_the_known_one(store):
    first = store.pause(replace(WISH, by="breaker", error="ConnectionError", failures=5), instead_of=None).pause
    probed = replace(first, probes=1, probe_at=first.since + timedelta(milliseconds=1500))

    second = store.pause(probed, 60.0, instead_of=first)
    late = store.pause(replace(probed, probes=7), instead_of=first)
    unwanted = store.pause(WISH, instead_of=None)

    assert second.is_done
    assert second.pause.since == first.since
    assert (second.pause.probes, second.pause.probe_at) == (1, probed.probe_at)
    assert second.pause.until is not None
    assert (late.is_done, late.pause) == (False, second.pause)
    assert (unwanted.is_done, unwanted.pause) == (False, second.pause)
    assert store.resume(HANDLER, instead_of=first) is None
    assert store.pause_of(HANDLER) == second.pause
    assert store.resume(HANDLER, instead_of=second.pause) == second.pause
    assert store.pause_of(HANDLER) is None


def test_messages_are_scheduled_and_removed_in_the_same_step(rig):
    store = rig.store
    first = store.pause(WISH, scheduled=[at("paused"), at("ends", 30.0)]).pause
    assert due(store) == ["paused"]
    store.sent(HANDLER, ["paused"])

    store.pause(replace(WISH, id="p-2"), instead_of=None, scheduled=[at("never")], unscheduled=["ends"])
    assert store.backlog(HANDLER).later == 1

    assert store.resume(HANDLER, instead_of=first, scheduled=[at("resumed")], unscheduled=["ends"]) == first
    assert store.resume(HANDLER, scheduled=[at("twice")]) is None
    assert due(store) == ["resumed"]
    assert store.backlog(HANDLER).total == 1


def test_of_several_that_resume_at_once_one_ends_the_pause(store):
    pause = store.pause(WISH).pause

    ended = at_once(8, lambda _: store.resume(HANDLER))

    assert sorted(ended, key=bool) == [None] * 7 + [pause]


def test_of_several_that_pause_a_handler_which_is_not_paused_one_does(store):
    done = at_once(8, lambda number: store.pause(replace(WISH, id=f"p-{number}"), instead_of=None))

    assert sum(one.is_done for one in done) == 1
    assert {one.pause for one in done} == {store.pause_of(HANDLER)}


@pytest.mark.parametrize("text", ["", "x", "1 2", "1 0 []", "1 0 {", "1 0 {}", '1 0 {"reason": "x", "new": [1]}'])
def test_a_pause_that_another_program_wrote_still_pauses_and_can_be_resumed(redis_rig: RedisRig, text: str):
    redis_rig.client.set(f"{redis_rig.prefix}:{{{HANDLER}}}:pause", text)

    pause = redis_rig.store.pause_of(HANDLER)

    assert (pause is None) == (text == "")
    if pause is not None:
        assert pause.is_stop
        assert redis_rig.store.resume(HANDLER) == pause
    assert redis_rig.store.pause_of(HANDLER) is None


def test_a_pause_that_another_version_wrote_can_be_replaced_and_resumed_by_people(redis_rig: RedisRig):
    app = Service("payment", config=None, broker="memory://", set_as_current=False)
    app.runtime.store = redis_rig.store
    redis_rig.store.register([HANDLER])
    for _ in range(2):
        redis_rig.client.set(f"{redis_rig.prefix}:{{{HANDLER}}}:pause", '1000 0 {"reason":"theirs","new":[1]}')
        (done,) = app.pauses.pause(HANDLER, reason="ours")
        assert (done.before.reason, done.pause.reason) == ("theirs", "ours")
        redis_rig.client.set(f"{redis_rig.prefix}:{{{HANDLER}}}:pause", "what?")
        (ended,) = app.pauses.resume(HANDLER)
        assert "cannot be read: what?" in ended.reason


def test_something_else_in_place_of_a_pause_still_pauses_and_can_be_resumed(redis_rig: RedisRig):
    store = redis_rig.store
    redis_rig.client.rpush(store._key(HANDLER, "pause"), "something else")
    store.register([HANDLER, OTHER])

    pause = store.pauses()[HANDLER]

    assert pause.is_stop
    assert "cannot be read: WRONGTYPE" in pause.reason
    assert store.resume(HANDLER) == pause
    assert store.pauses() == {}
