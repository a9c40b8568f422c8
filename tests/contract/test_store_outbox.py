"""The promises of every store: what follows from a unit is recorded with its end."""

import pytest

from choreo.store import CommitResult, Outcome, Settlement
from tests.contract.rigs import (
    HANDLER,
    at,
    claim,
    due,
    message,
    settle,
)


def test_a_commit_schedules_what_follows_and_drops_what_is_no_longer_wanted(rig):
    rig.store.schedule(HANDLER, at("deadline", 15))
    rig.store.begin(claim())

    settle(
        rig.store, claim(), Settlement(scheduled=[at("event:1", 5), at("event:2", 5)], unscheduled=["deadline", "?"])
    )

    rig.pass_time(20)
    assert due(rig.store) == ["event:1", "event:2"]


# The fused store sends with the commit itself, and has no outbox: see test_claims.py for what it does.
@pytest.mark.parametrize("rig", ["memory", "redis"], indirect=True)
def test_what_leaves_with_a_commit_waits_in_the_outbox_until_it_is_sent(rig):
    leaving = {"event:1": message("1"), "event:2": message("2")}
    rig.store.begin(claim())

    committed = rig.store.commit(claim(), Settlement(sent=leaving))

    assert committed == CommitResult(Outcome.OK, unsent=leaving)
    # The worker that committed sends it at once; the others leave it alone for a moment.
    assert due(rig.store) == []
    rig.store.sent(HANDLER, ["event:1"])
    rig.pass_time(10)
    assert due(rig.store) == ["event:2"]


def test_nothing_leaves_with_a_commit_that_comes_too_late(rig):
    rig.store.begin(claim("A"))
    rig.pass_time(40)
    rig.store.begin(claim("B"))

    committed = rig.store.commit(claim("A"), Settlement(sent={"event:1": message()}))

    assert (committed.outcome, dict(committed.unsent)) == (Outcome.STALE, {})
    assert rig.store.backlog(HANDLER).total == 0


def test_nothing_is_sent_that_was_not_asked_for(store):
    store.schedule(HANDLER, at("m"))

    store.sent(HANDLER, [])
    store.sent(HANDLER, ["?"])

    assert store.backlog(HANDLER).total == 1
