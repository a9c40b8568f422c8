"""The promises of every store: a run is recorded with its outcome, or not at all, and found by its story."""

import json
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest
import redis

from choreo import DeclarationError, Envelope
from choreo.fast.fused_store import FusedStore
from choreo.store import Outcome, Settlement, Verdict, redis_runs
from choreo.store.memory import MemoryStore
from choreo.store.redis import RedisStore
from choreo.store.redis_runs import Tending
from choreo.store.runs import LONGEST_EVENT, MOST_NAMED, SHELVES, Recording, Result, Run, entries, shelf
from tests.contract.rigs import HANDLER, TERMS, claim, settle


def run_of(story: str, event: str = "", **fields) -> Run:
    about = {"subject": "ORD-1", "type": "order.placed", "attempt": 1, "result": Result.DONE, "handler": HANDLER}
    return Run(event or story, story, **(about | fields))


def record(store, run: Run, unit: str = "") -> None:
    unit = unit or str(uuid4())
    assert store.begin(claim(unit=unit)).verdict is Verdict.RUN
    assert settle(store, claim(unit=unit), Settlement(record=entries(run))) is Outcome.OK


def test_a_run_is_recorded_with_its_commit_and_found_by_its_story(store):
    story, event, announced = (str(uuid4()) for _ in range(3))
    run = run_of(
        story,
        event,
        subject="ORD-1 é\t\n",
        type="order.placed",
        attempt=2,
        result=Result.RETRY,
        waited=1.25,
        took=0.003,
        worker="driver@driver.host",
        announced=[("driver.assigned", announced), ("order.rejected", str(uuid4()))],
        detail="ValueError: no driver",
        parts=[("payment.charged", str(uuid4())), ("a", "b")],
    )
    record(store, run)

    (found,) = store.runs(HANDLER, story)

    assert abs(found.at - store.now()) < 60
    assert replace(found, at=0.0) == run
    assert store.runs(HANDLER, story, "any subject") == [found]
    assert store.runs("another.handler", story) == []
    assert store.runs(HANDLER, str(uuid4())) == []


@pytest.mark.parametrize("story", ["e-1", "~", "=", 'a "quoted" id', "half a surrogate \ud800", "ü" * 50])
def test_a_story_may_have_any_id(store, story):
    record(store, run_of(story))
    record(store, run_of(story + "1"))

    assert [run.story for run in store.runs(HANDLER, story)] == [story]


def test_runs_come_in_the_order_of_their_outcomes(store):
    story = str(uuid4())
    for attempt in (3, 1, 2):
        record(store, run_of(story, attempt=attempt))

    assert [run.attempt for run in store.runs(HANDLER, story)] == [3, 1, 2]


def test_a_commit_that_is_refused_records_nothing(store):
    story = str(uuid4())
    store.begin(claim("A"))

    assert settle(store, claim("B"), Settlement(record=entries(run_of(story)))) is Outcome.STALE

    assert store.runs(HANDLER, story) == []


def test_a_subject_leads_to_its_stories(store):
    first, second, other = (str(uuid4()) for _ in range(3))
    record(store, run_of(first))
    record(store, run_of(second))
    record(store, run_of(second))
    record(store, run_of(other, subject="ORD-10"))
    record(store, run_of(other, event=str(uuid4())))  # not the first event of its story

    assert store.stories(HANDLER, "ORD-1") == [first, second]
    assert store.stories(HANDLER, "ORD") == []
    assert store.stories("another.handler", "ORD-1") == []


def test_a_subject_that_only_a_later_event_has_leads_to_the_story_as_well(store):
    story = str(uuid4())
    record(store, run_of(story, event=str(uuid4()), subjects=["PAY-7", "DRV-2"]))

    assert store.stories(HANDLER, "PAY-7") == store.stories(HANDLER, "DRV-2") == [story]
    assert store.stories(HANDLER, "ORD-1") == []


def test_the_run_of_a_join_belongs_to_the_stories_of_all_its_parts(store):
    story, other = str(uuid4()), str(uuid4())
    record(store, run_of(story, others={other: [("b", "b-1")]}))

    assert [run.story for run in store.runs(HANDLER, story)] == [story]
    assert [run.story for run in store.runs(HANDLER, other)] == [other]


def test_a_join_of_thousands_of_stories_makes_small_entries_and_each_story_finds_its_own_part(store):
    stories = [str(uuid4()) for _ in range(2000)]
    parts = [("item.packed", f"event-of-{story}") for story in stories]
    run = run_of(
        "story", "last", parts=parts, others={story: [part] for story, part in zip(stories, parts, strict=True)}
    )

    assert sum(len(text) for _, text in entries(run)) < 1_000_000
    record(store, run)

    assert all(store.runs(HANDLER, story)[0].has_part(f"event-of-{story}") for story in stories[::1500])


def test_the_parts_of_a_small_join_are_named_in_each_of_its_stories(store):
    story, other = str(uuid4()), str(uuid4())
    record(store, run_of(story, parts=[("a", "a-1"), ("b", "b-1")], others={other: [("b", "b-1")]}))

    assert [run.parts for run in store.runs(HANDLER, other)] == [[("a", "a-1"), ("b", "b-1")]]


def test_a_run_that_announced_thousands_of_events_makes_a_small_entry(store):
    announced = [("item.packed", str(uuid4())) for _ in range(3000)]
    run = run_of("story", announced=announced, subjects=[f"{number}" + "x" * 100_000 for number in range(3)])

    assert sum(len(text) for _, text in entries(run)) < 100_000
    record(store, run)

    assert store.runs(HANDLER, "story")[0].announced == announced[:MOST_NAMED]
    assert store.stories(HANDLER, "2" + "x" * 100_000) == ["story"]


def test_who_knows_the_subject_of_the_first_event_finds_all_runs_with_less_work(store):
    story = str(uuid4())
    record(store, run_of(story))
    record(store, run_of(story, event="e-2", subject="PAY-7"))

    # Runs of one millisecond, in two lists, have no order.
    assert sorted(run.event for run in store.runs(HANDLER, story, "ORD-1")) == sorted([story, "e-2"])
    assert sorted(run.event for run in store.runs(HANDLER, story)) == sorted([story, "e-2"])


def test_an_event_leads_to_its_story(store):
    story, event, announced, part = (str(uuid4()) for _ in range(4))
    record(store, run_of(story, event, announced=[("a", announced)], parts=[("b", part)]))

    assert {store.story_of(HANDLER, one) for one in (event, announced, part)} == {story}
    assert store.story_of(HANDLER, str(uuid4())) is None
    assert store.story_of(HANDLER, story) is None


def test_recent_runs_are_the_newest_ones(store):
    stories = [str(uuid4()) for _ in range(3)]
    for story in stories:
        record(store, run_of(story))

    # Runs of one millisecond have no order.
    assert {run.story for run in store.recent(HANDLER, 60.0)} == set(stories)
    assert store.recent("another.handler", 60.0) == []


def recording_store(kind: str, url: str, namespace: str, recording: Recording) -> MemoryStore | RedisStore:
    if kind == "memory":
        return MemoryStore(TERMS, recording=recording)
    if kind == "fused":
        return FusedStore(url, TERMS, namespace, "choreo.events", f"{namespace}:broker:", recording=recording)
    return RedisStore(url, TERMS, namespace, recording=recording)


@pytest.mark.parametrize("kind", ["memory", "redis", "fused"])
def test_the_length_of_the_record_is_bounded(kind, redis_url, namespace):
    store = recording_store(kind, redis_url, namespace, Recording(length=SHELVES * 100))
    stories = [f"s-{number}" for number in range(20_000) if shelf(f"s-{number}") == 5][:400]
    for story in stories:
        record(store, run_of(story, event="e-2"))

    kept = [story for story in stories if store.runs(HANDLER, story)]

    # Redis drops whole blocks of entries.
    assert kept == stories[-len(kept) :]
    assert 100 <= len(kept) <= (400 if kind == "memory" else 250)


@pytest.mark.parametrize("kind", ["memory", "redis", "fused"])
def test_the_events_of_a_run_are_kept_if_they_are_given(kind, redis_url, namespace):
    store = recording_store(kind, redis_url, namespace, Recording(events=True))
    wire = {
        "specversion": "1.0",
        "id": "e-2",
        "type": "order.placed",
        "source": "shop",
        "time": "2026-01-01T00:00:00+00:00",
    }
    event = Envelope.from_wire(wire | {"data": {"id": "e-3", "name": 'é \u2028 "x"'}})
    large = replace(event, id="e-4", data={"text": "x" * LONGEST_EVENT})

    record(store, run_of("s-1", event="e-2", whole=(event, large)))

    assert Envelope.from_wire(json.loads(store.event(HANDLER, "e-2"))) == event
    assert store.event(HANDLER, "e-3") is None, "the data of another event has this id"
    assert store.event(HANDLER, "e-4") is None
    assert store.event("another.handler", "e-2") is None
    assert [run.event for run in store.runs(HANDLER, "s-1")] == ["e-2"]


@pytest.mark.parametrize("kind", ["redis", "fused"])
def test_old_runs_are_dropped(kind, redis_url, namespace):
    store = recording_store(kind, redis_url, namespace, Recording(lifetime=timedelta(seconds=100)))
    record(store, run_of("s-1"))

    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.scan_iter(f"{namespace}:*:runs:*")
        assert 0 < client.pttl(key) <= 100_000


@pytest.mark.parametrize("kind", ["redis", "fused"])
def test_the_record_of_a_handler_with_few_events_does_not_end_with_its_newest_run(kind, redis_url, namespace):
    recording = Recording(lifetime=timedelta(seconds=100))
    record(recording_store(kind, redis_url, namespace, recording), run_of("s-1"))
    with redis.Redis.from_url(redis_url) as client:
        (key,) = client.scan_iter(f"{namespace}:*:runs:*")
        client.delete(key)
        client.xadd(key, {"": "an entry of 1970"}, id="1-1")
        client.pexpire(key, 1000)

        record(recording_store(kind, redis_url, namespace, recording), run_of("s-1"))

        assert client.pttl(key) > 50_000
        assert client.xlen(key) == 1, "the entry of 1970 is still there"


def test_a_list_of_the_record_is_tended_eight_times_in_its_lifetime(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(redis_runs, "monotonic", lambda: now)
    tending = Tending(80.0)

    assert [tending.marked(HANDLER, name) for name in ("runs:1", "runs:1", "runs:2")] == [
        "runs:1!",
        "runs:1",
        "runs:2!",
    ]
    now += 10
    assert [tending.marked(HANDLER, name) for name in ("runs:1", "runs:1")] == ["runs:1!", "runs:1"]


def test_old_runs_are_dropped_from_memory():
    now = 1000.0
    store = MemoryStore(TERMS, lambda: now, recording=Recording(lifetime=timedelta(seconds=100)))
    record(store, run_of("s-1"))
    now += 101
    record(store, run_of("s-2"))

    assert store.runs(HANDLER, "s-1") == []
    assert len(store.runs(HANDLER, "s-2")) == 1


def test_a_broken_record_stops_no_commit(redis_rig):
    """A key of the wrong type, as a careless program could leave it."""
    for number in range(SHELVES):
        redis_rig.client.set(f"{redis_rig.prefix}:{{{HANDLER}}}:runs:{number}", "junk")

    record(redis_rig.store, run_of("s-1"), unit="e-1")

    assert redis_rig.store.begin(claim("B")).verdict is Verdict.DONE


def test_an_entry_of_a_later_version_is_left_out(redis_rig):
    record(redis_rig.store, run_of("s-1"))
    key = f"{redis_rig.prefix}:{{{HANDLER}}}:runs:{shelf('ORD-1')}"
    redis_rig.client.xadd(key, {"": '["=s-1", {"new": "form"}]'})
    redis_rig.client.xadd(key, {"": "=s-1, which is no JSON"})
    redis_rig.client.xadd(key, {"": '["=s-1","","ORD-1","t",1,"d",1' + "0" * 400 + ',1,"",""]'})
    redis_rig.client.xadd(key, {"": '["=s-1","",null,"t","1","d",1,1,"",""]'})
    redis_rig.client.xadd(key, {"": '"=s-1"' + "[" * 100_000})
    redis_rig.client.xadd(key, {"": "[" * 100_000 + '"=s-1"'})

    assert len(redis_rig.store.runs(HANDLER, "s-1")) == 1


def test_an_entry_of_a_later_version_leads_from_a_subject_to_no_story(redis_rig):
    record(redis_rig.store, run_of("s-1", event="e-1", subjects=["PAY-7"]))
    key = f"{redis_rig.prefix}:{{{HANDLER}}}:subjects:{shelf('PAY-7')}"
    for entry in ('["PAY-7"]', '["PAY-7", 1]', '["PAY-7", "=s-2", {"new": "form"}]', "PAY-7", "[" * 100_000 + "PAY-7"):
        redis_rig.client.xadd(key, {"": entry})

    assert redis_rig.store.stories(HANDLER, "PAY-7") == ["s-1"]


def test_a_sample_takes_whole_stories():
    wanted = [story for story in (str(uuid4()) for _ in range(4000)) if Recording(sample=0.25).wants(story)]

    assert 800 < len(wanted) < 1200
    assert all(Recording(sample=0.25).wants(story) for story in wanted)
    assert not Recording(sample=0)
    assert not Recording(length=0)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("length", -1), ("length", 1.5), ("length", True), ("lifetime", 0), ("lifetime", "a week"), ("sample", 1.1)],
)
def test_a_setting_that_cannot_work_is_refused(setting, value):
    with pytest.raises(DeclarationError, match=f"choreo_record_{setting} = "):
        Recording.of({f"choreo_record_{setting}": value})


def test_settings_say_what_is_recorded():
    settings = {"choreo_record_length": 500, "choreo_record_lifetime": 3600, "choreo_record_sample": 0.5}

    assert Recording.of(settings) == Recording(500, timedelta(hours=1), 0.5)
    assert Recording.of({}) == Recording()
