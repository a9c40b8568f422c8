"""`choreo trace` and `choreo why-not`: the story of an order, and why something has not happened. Without a broker."""

import json
import re
from dataclasses import replace
from datetime import timedelta

import pytest
from click.testing import CliRunner

from choreo import DeadLetter, Envelope, Event, PermanentFailure, Reason, Retry, RetryLater, Service
from choreo.broker.depths import Depth
from choreo.cli import choreo
from choreo.events.message import Message
from choreo.observe.broker_look import BrokerLook
from choreo.observe.cause import Cause, Weight, heaviest
from choreo.observe.gathering import MOST_STORIES
from choreo.observe.open_end import Kind, OpenEnd
from choreo.observe.trace import Trace
from choreo.observe.tracer import _events_of
from choreo.observe.why_not import WhyNot
from choreo.store.memory import MemoryStore
from choreo.store.parts import demanded
from choreo.store.presence import Presence
from choreo.store.runs import Recording, Result, Run
from choreo.testing import EndlessLoopError, Stage
from choreo.testing.runtime import StageRuntime
from tests.unit.events import envelope
from tests.unit.stage import service
from tests.unit.test_printing import HOSTILE


class OrderPlaced(Event):
    pass


class OrderConfirmed(Event):
    pass


class OrderRejected(Event):
    pass


class PaymentCharged(Event):
    pass


class DriverAssigned(Event):
    pass


class OrderDelayed(Event):
    pass


class OrdersPlaced(Event):
    pass


class BallReturned(Event):
    number: int = 0


class ParcelSent(Event):
    pass


#: What the handlers do with the order that has this subject.
FAULTS = ("quiet", "frozen", "later", "rejected")


def fault_of(order: Envelope) -> str:
    return next((fault for fault in FAULTS if fault in order.subject), "")


def shop() -> list[Service]:
    payment, restaurant = service("payment", retry=Retry(times=5)), service("restaurant")
    driver, analytics = service("driver", choreo_max_hops=0), service("analytics")

    @payment.on(OrderPlaced)
    def charge(order: Envelope) -> PaymentCharged | None:
        match fault_of(order):
            case "quiet":
                return None
            case "frozen":
                raise PermanentFailure("the account is frozen")
            case "later":
                raise RetryLater(1200)
        return PaymentCharged()

    @restaurant.on(OrderPlaced)
    def answer(order: Envelope) -> OrderConfirmed | OrderRejected:
        return OrderRejected() if fault_of(order) == "rejected" else OrderConfirmed()

    @driver.on(PaymentCharged)
    def send(charged: Envelope):  # it does not say what it announces
        return ParcelSent()

    def give_up(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> OrderDelayed:
        return OrderDelayed()

    @driver.join(OrderConfirmed, PaymentCharged, unless=OrderRejected, within=timedelta(minutes=30), on_timeout=give_up)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged | None) -> DriverAssigned:
        return DriverAssigned()

    @driver.on(BallReturned)
    def ping(pinged: BallReturned) -> BallReturned | None:
        return BallReturned(number=pinged.number - 1) if pinged.number else None

    @analytics.on("#")
    def count(event: Envelope) -> None: ...

    return [payment, restaurant, driver, analytics]


class Operator:
    """A stage, and what is asked of it."""

    def __init__(self) -> None:
        self.services = shop()
        self.stage = Stage(*self.services)
        self.stage.__enter__()
        self.app = self.services[0]

    def place(self, subject: str) -> Envelope:
        return self.stage.publish(OrderPlaced(), subject)

    def placed(self, subject: str) -> Envelope:
        event = self.place(subject)
        self.stage.run()
        return event

    def trace(self, what: str) -> Trace:
        (trace,) = self.app.observe.trace(what)
        return trace

    def why_not(self, event: type[Event], subject: str) -> WhyNot:
        return self.app.observe.why_not(event.event_type, subject)

    def stop(self, *services: str) -> None:
        """As if no worker of these services lived any more."""
        store = self.stage._store
        for app, runtime in self.stage._runtimes.items():
            runtime.pending = lambda: list(self.stage._queues.pending)
            if app.service_name in services:
                for worker in store.presence(app.service_name).workers:
                    store.leave(app.service_name, worker.name)
                for name in store.declared(app.service_name):
                    store.declare(app.service_name, name, (), 0)

    def forget_runs(self) -> None:
        """As if no run had been recorded."""
        for runtime in self.stage._runtimes.values():
            runtime.store._recording = Recording(length=0)


@pytest.fixture
def operator() -> Operator:
    return Operator()


@pytest.fixture
def choreo_command(operator: Operator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: operator.app)

    def run(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(choreo, arguments)
        assert done.exit_code == code, done.output
        # A command is never broken.
        said = done.output.partition("\nDO ")[0]
        long = [line for line in said.splitlines() if len(line) > 80 and not line.startswith(("{", "Error: "))]
        assert long == []
        return done.output

    return run


def steps(trace: Trace) -> dict[tuple[str, str], str]:
    """What became of each event at each handler: the results of the runs, and what is open."""
    found = {}
    for line in trace.lines:
        if (step := line.step) is not None:
            words = [str(run.result) for run in step.runs]
            words += ["part"] if step.joined else []
            words += [str(step.end.kind)] if step.end else []
            found[step.handler, line.event.type] = " ".join(words)
    return found


def tree(trace: Trace) -> list[str]:
    return [f"{'  ' * line.depth}{line.step.handler if line.step else line.event.type}" for line in trace.lines]


def test_a_story_that_is_done_is_a_tree_of_events_and_handlers(operator: Operator) -> None:
    operator.placed("ORD-1")

    trace = operator.trace("ORD-1")

    assert trace.is_done
    assert trace.read_as == "subject"
    assert trace.cause.text.startswith("done in ")
    assert [line for line in tree(trace) if "analytics" not in line] == [
        "order.placed",
        "  payment.charge",
        "    payment.charged",
        "      driver.send",
        "        parcel.sent",
        "      driver.assign",
        "  restaurant.answer",
        "    order.confirmed",
        "      driver.assign",
        "        driver.assigned",
    ]
    assert steps(trace)["driver.assign", "payment.charged"] == "part"
    assert operator.why_not(DriverAssigned, "ORD-1").cause.weight is Weight.DONE


def test_an_event_that_nobody_has_taken_is_found_without_a_record(operator: Operator) -> None:
    event = operator.place("ORD-1")
    operator.place("ORD-2")
    operator.forget_runs()

    trace = operator.trace("ORD-1")

    assert trace.cause.weight is Weight.WAITING
    assert steps(trace)["payment.charge", "order.placed"] == "queued"
    assert trace.lines[1].step.end.message.position == 1
    assert trace.lines[1].step.end.message.count == 2
    assert trace.story == event.id


def test_one_dead_letter_of_many_offers_to_replay_them_all(operator: Operator) -> None:
    operator.placed("ORD-frozen-1")
    assert operator.trace("ORD-frozen-1").cause.do[1] == "# mend the cause, then:"
    operator.placed("ORD-frozen-2")

    cause = operator.trace("ORD-frozen-1").cause

    (group,) = operator.app.dead_letters.groups()
    (letter,) = operator.app.dead_letters.find(subject="ORD-frozen-1")
    assert cause.text.endswith(f"dead letter {letter.id}), one of 2 of this cause")
    assert cause.do == (
        f"choreo dead-letters show {letter.id}",
        "# mend the cause, then all 2:",
        f"choreo dead-letters replay {group.id} --canary",
        "# or this one:",
        f"choreo dead-letters replay {letter.id}",
    )


def test_a_pause_is_the_cause_and_resuming_the_next_step(operator: Operator, choreo_command) -> None:
    operator.place("ORD-1")
    operator.app.pauses.pause("payment.charge", reason="gateway down", who="alice@a")

    for cause in (operator.trace("ORD-1").cause, operator.why_not(DriverAssigned, "ORD-1").cause):
        assert (cause.name, cause.weight, list(cause.do)) == ("paused", Weight.STUCK, ["choreo resume payment.charge"])
        assert cause.text.startswith("payment.charge is paused since ")
        assert cause.text.endswith("by alice@a: gateway down")
    assert "choreo resume payment.charge" in choreo_command("trace", "ORD-1")

    operator.app.pauses.pause("payment.charge", 600, who="alice@a")
    cause = operator.why_not(PaymentCharged, "ORD-1").cause
    assert (cause.weight, " until " in cause.text) == (Weight.WAITING, True)

    operator.app.pauses.pause("payment.charge", rate="5/s", who="alice@a")
    cause = operator.why_not(PaymentCharged, "ORD-1").cause
    assert (cause.name, cause.weight) == ("slowed", Weight.WAITING)
    assert "1st of 1 in the queue of payment.charge" in cause.text
    assert "payment.charge is slowed to 5/s since" in cause.text

    operator.stop("payment")
    assert operator.trace("ORD-1").cause.name == "no worker"


def test_a_retry_of_a_paused_handler_says_that_it_will_wait(operator: Operator) -> None:
    operator.placed("ORD-later")
    operator.app.pauses.pause("payment.charge", who="alice@a")

    cause = operator.trace("ORD-later").cause

    assert (cause.name, list(cause.do)) == ("paused", ["choreo resume payment.charge"])
    assert ", and payment.charge is paused since" in cause.text


@pytest.mark.parametrize("subject", ["ORD-frozen", "ORD-later"])
def test_what_is_open_is_told_without_a_record(operator: Operator, subject: str) -> None:
    operator.forget_runs()
    operator.placed(subject)

    trace = operator.trace(subject)

    kind = "dead letter" if "frozen" in subject else "retry"
    assert steps(trace)["payment.charge", "order.placed"] == kind
    assert steps(trace)["driver.assign", "order.confirmed"] == "join"
    why = operator.why_not(DriverAssigned, subject)
    assert why.cause.name == kind
    assert "no runs are recorded" not in why.cause.text


def test_a_dead_letter_is_the_cause_and_its_replay_the_next_step(operator: Operator) -> None:
    operator.placed("ORD-frozen")
    (letter,) = operator.app.dead_letters

    trace, why = operator.trace("ORD-frozen"), operator.why_not(DriverAssigned, "ORD-frozen")

    for cause in (trace.cause, why.cause):
        assert cause.name == "dead letter"
        assert "payment.charge failed for good: PermanentFailure: the account is frozen" in cause.text
        assert cause.do == (
            f"choreo dead-letters show {letter.id}",
            "# mend the cause, then:",
            f"choreo dead-letters replay {letter.id}",
        )
    assert trace.cause.weight is Weight.STUCK


def test_an_order_is_not_done_whose_dead_letter_was_recorded_after_the_letters_were_looked_through(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.placed("ORD-frozen")
    (letter,) = operator.app.dead_letters
    monkeypatch.setattr(MemoryStore, "find_letters", lambda *_: ([], True))  # the look came a moment too early

    cause = operator.trace("ORD-frozen").cause

    assert (cause.name, cause.weight) == ("dead letter", Weight.STUCK)
    assert f"dead letter {letter.id}" in cause.text


def test_an_undo_that_waits_or_failed_is_open_in_the_story_of_the_failure_too() -> None:
    effect = envelope(PaymentCharged(), id="c-1", correlation_id="story of the effect")
    failure = envelope(OrderRejected(), id="r-1", correlation_id="story of the failure")

    assert OpenEnd(Kind.LETTER, "payment.refund", demanded(effect, failure)).stories == {
        "story of the effect",
        "story of the failure",
    }
    assert OpenEnd(Kind.LETTER, "payment.refund", demanded(effect, None)).stories == {"story of the effect"}
    assert OpenEnd(Kind.LETTER, "payment.charge", effect).stories == {"story of the effect"}


def test_a_dead_letter_that_was_replayed_says_so_and_so_does_the_run_after_it(
    operator: Operator, choreo_command
) -> None:
    operator.placed("ORD-frozen")
    (letter,) = operator.app.dead_letters
    operator.app.dead_letters.replay(letter.id)
    assert "dead letter, replayed since: PermanentFailure" in choreo_command("trace", "ORD-frozen")
    operator.stage.run()
    (again,) = operator.app.dead_letters

    said = " ".join(choreo_command("trace", "ORD-frozen").split())

    assert "dead letter, replayed since: PermanentFailure" in said
    assert f"replayed DEAD LETTER {again.id} PermanentFailure" in said
    assert letter.id not in said
    (charge,) = (
        step
        for step in json.loads(choreo_command("trace", "ORD-frozen", "--json"))["events"][0]["steps"]
        if step["handler"] == "payment.charge"
    )
    assert [(run["is_replay"], run["letter_is_gone"]) for run in charge["runs"]] == [(False, True), (True, False)]


def test_a_dead_letter_that_was_discarded_is_gone(operator: Operator, choreo_command) -> None:
    operator.placed("ORD-frozen")
    (letter,) = operator.app.dead_letters
    operator.app.dead_letters.discard(letter.id)
    operator.app.joins.cancel("ORD-frozen", "no payment")

    said = " ".join(choreo_command("trace", "ORD-frozen").split())

    assert "dead letter, replayed or discarded since: PermanentFailure" in said
    assert "payment.charge failed for good, and its dead letter is gone" in operator.trace("ORD-frozen").headline()


def test_a_retry_says_when_it_is_due_which_attempt_it_is_and_why(operator: Operator) -> None:
    operator.placed("ORD-later")

    cause = operator.trace("ORD-later").cause

    assert (cause.name, cause.weight) == ("retry", Weight.WAITING)
    assert cause.text.startswith("attempt 2 of 6 of payment.charge is due in 20 min, at ")
    assert "RetryLater" in cause.text


def test_a_handler_that_announced_nothing_is_the_cause_of_a_join_that_waits(operator: Operator) -> None:
    operator.placed("ORD-quiet")

    trace, why = operator.trace("ORD-quiet"), operator.why_not(DriverAssigned, "ORD-quiet")

    for cause in (trace.cause, why.cause):
        assert cause.name == "announced nothing"
        assert cause.text.startswith("payment.charge handled order.placed at ")
        assert cause.text.endswith("and announced nothing")
        placed = operator.trace("ORD-quiet").story
        assert cause.do[2] == f"choreo rerun payment.charge {placed}"
        about = f"--caused-by {placed}"
        assert cause.do[-1] == f"choreo publish payment.charged {about} --data '{{}}'"
    assert [(finding.is_met, finding.what) for finding in why.findings] == [
        (False, "driver.assigned"),
        (None, "driver.assign"),
        (True, "order.confirmed"),
        (False, "payment.charged"),
        (None, "payment.charge"),
    ]


def test_a_join_that_timed_out_was_cancelled_or_fired_says_so(operator: Operator) -> None:
    for subject in ("quiet-1", "quiet-2", "quiet-3", "rejected-4"):
        operator.placed(subject)
    operator.app.joins.cancel("quiet-2", "the customer called")
    operator.app.joins.fire("quiet-3")
    operator.stage.run()
    operator.stage.advance(minutes=31)

    endings = {
        subject: operator.trace(subject).cause.text for subject in ("quiet-1", "quiet-2", "quiet-3", "rejected-4")
    }
    assert endings["quiet-1"].endswith("driver.assign timed out")
    assert endings["quiet-2"].endswith("driver.assign was cancelled by hand: the customer called")
    assert endings["quiet-3"].endswith("driver.assign was fired by hand")
    assert endings["rejected-4"].endswith("driver.assign was cancelled by order.rejected")
    assert operator.why_not(DriverAssigned, "quiet-1").cause.name == "timed out"
    assert "the customer called" in operator.why_not(DriverAssigned, "quiet-2").cause.text
    assert "was cancelled by order.rejected at" in operator.why_not(DriverAssigned, "rejected-4").cause.text
    assert operator.why_not(OrderDelayed, "quiet-1").cause.weight is Weight.DONE


def test_a_cancelled_join_names_who_cancelled_it_and_the_two_reruns_if_its_events_are_kept(operator: Operator) -> None:
    for runtime in operator.stage._runtimes.values():
        runtime.store._recording = Recording(events=True)
    operator.placed("rejected-1")
    rejected = operator.stage.announced(OrderRejected, subject="rejected-1").one().meta

    cause = operator.why_not(DriverAssigned, "rejected-1").cause

    assert cause.text.startswith("driver.assign was cancelled by order.rejected at ")
    assert cause.text.endswith(", which restaurant.answer announced")
    assert cause.do == (
        "# is that right? If not, mend the cause, then:",
        f"choreo rerun restaurant.answer {rejected.causation_id} --new-key",
        f"choreo rerun driver.assign {rejected.id}",
    )


def test_a_cancelled_join_whose_events_are_kept_nowhere_says_so_and_names_a_publish(operator: Operator) -> None:
    operator.placed("rejected-1")
    rejected = operator.stage.announced(OrderRejected, subject="rejected-1").one().meta

    why, how, first, second = operator.why_not(DriverAssigned, "rejected-1").cause.do

    assert why == "# no rerun: its events are kept with choreo_record_events = True only"
    assert how == "# is that right? If not, announce it by hand, with its fields in --data:"
    assert first == f"choreo rerun restaurant.answer {rejected.causation_id} --new-key --data '{{}}'"
    assert second == (f"choreo publish driver.assigned --caused-by {rejected.id} --data '{{}}'")


def test_the_newest_end_of_a_join_counts(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    for runtime in operator.stage._runtimes.values():
        runtime.store._recording = Recording(events=True)
    operator.placed("rejected-1")
    rejected = operator.stage.announced(OrderRejected, subject="rejected-1").one().meta
    assert "was cancelled" in operator.trace("rejected-1").cause.text

    monkeypatch.setattr("tests.unit.test_trace.fault_of", lambda _: "")
    operator.app.rerun("restaurant.answer", rejected.causation_id, new_key=True)
    operator.stage.advance(seconds=1)
    operator.app.rerun("driver.assign", rejected.id)
    operator.stage.advance(seconds=1)

    assert operator.stage.announced(DriverAssigned, subject="rejected-1").one()
    trace = operator.trace("rejected-1")
    assert trace.is_done
    assert "cancelled" not in trace.cause.text
    assert operator.why_not(DriverAssigned, "rejected-1").cause.name == "announced"


def test_a_trace_shows_no_fields_that_a_story_did_not_keep(operator: Operator) -> None:
    operator.services[3].story("delivery", begins=BallReturned, ends=[ParcelSent], within=timedelta(minutes=10))
    operator.services[3].runtime.introduce()
    ball = replace(operator.stage.publish(BallReturned(number=0), "B-1"), data={})
    operator.stage.run()
    letter = DeadLetter(
        "analytics", "analytics.delivery", Reason.EXPIRED, "late", Message("", "", b""), envelopes=(ball,)
    )
    operator.app.runtime.store.add_letter("analytics.delivery", letter.id, letter.to_json())

    (event,) = [line.event for line in operator.trace(letter.id).lines if line.step is None]

    assert (event.id, event.data) == (ball.id, None)


def test_a_story_is_found_by_the_id_of_an_event_a_story_and_a_dead_letter(operator: Operator) -> None:
    event = operator.placed("ORD-frozen")
    (letter,) = operator.app.dead_letters
    confirmed = next(one for one in operator.stage.events if one.type == "order.confirmed")

    assert operator.trace(letter.id).read_as == "dead letter"
    assert operator.trace(event.id).read_as == "story"
    assert operator.trace(confirmed.id).read_as == "event"
    assert {operator.trace(what).story for what in (letter.id, event.id, confirmed.id)} == {event.id}


def test_the_newest_story_of_a_subject_comes_first(operator: Operator) -> None:
    first = operator.placed("ORD-1")
    operator.stage.advance(seconds=5)
    second = operator.placed("ORD-1")

    assert operator.trace("ORD-1").story == second.id
    assert operator.trace("ORD-1").others == [first.id]
    assert [trace.story for trace in operator.app.observe.trace("ORD-1", everything=True)] == [second.id, first.id]


def test_of_thousands_of_stories_about_one_subject_that_wait_the_newest_are_looked_at(operator: Operator) -> None:
    for _ in range(MOST_STORIES + 29):
        operator.place("SKU-1")
    operator.stage._clock.seconds += 1
    newest = operator.place("SKU-1")

    trace = operator.trace("SKU-1")

    assert trace.story == newest.id
    assert len(trace.others) == MOST_STORIES - 1
    assert (
        trace.notes[0]
        == f"{MOST_STORIES + 30} stories of it are open, and only the newest {MOST_STORIES} were looked at"
    )


def test_another_subject_that_contains_this_one_is_another(operator: Operator) -> None:
    operator.place("ORD-10")

    assert operator.app.observe.trace("ORD-1") == []


def test_a_type_that_nobody_announces_names_the_one_that_was_perhaps_meant(operator: Operator) -> None:
    operator.placed("ORD-1")

    why = operator.app.observe.why_not("driver.asigned", "ORD-1")

    assert why.cause.name == "misspelling"
    assert "nobody announces driver.asigned. driver.assigned was announced at" in why.cause.text
    assert operator.app.observe.why_not("menu.printed", "ORD-1").cause.name == "nobody announces it"


def test_a_misspelled_event_that_only_a_pattern_hears_is_not_done(operator: Operator) -> None:
    operator.stage.publish(OrdersPlaced(), "ORD-1")
    operator.stage.run()

    trace = operator.trace("ORD-1")

    assert trace.headline() == "ORD-1  open: only patterns hear orders.placed; order.placed?"
    assert trace.cause.do == ("choreo map orders.placed",)


def test_an_event_is_no_misspelling_of_another_one_of_its_story(operator: Operator) -> None:
    first = operator.placed("ORD-1")
    operator.stage.publish(replace(first, id="another", type="orders.placed", causation_id=first.id))
    operator.stage.run()

    assert operator.trace("ORD-1").is_done


def test_a_handler_that_does_not_say_what_it_announces_is_known_by_what_it_did(operator: Operator) -> None:
    assert operator.why_not(ParcelSent, "ORD-quiet").cause.name == "nobody announces it"
    assert "may: driver.send" in operator.why_not(ParcelSent, "ORD-quiet").cause.text
    operator.placed("ORD-1")
    operator.placed("ORD-quiet")

    why = operator.why_not(ParcelSent, "ORD-quiet")

    assert why.findings[0].text == "announced by driver.send"
    assert why.cause.text.startswith("payment.charge handled order.placed at ")


def test_nothing_is_known_of_an_order_that_was_never_placed(operator: Operator) -> None:
    cause = operator.why_not(DriverAssigned, "ORD-1").cause

    assert cause.weight is Weight.UNKNOWN or "nobody announces order.placed" in cause.text


def test_a_delayed_event_is_waiting_to_be_announced(operator: Operator) -> None:
    operator.stage.publish(OrderPlaced(), "ORD-1", delay=timedelta(minutes=20))

    trace, why = operator.trace("ORD-1"), operator.why_not(OrderPlaced, "ORD-1")

    assert trace.cause.text.startswith("order.placed is due in 20 min")
    assert why.cause.text == trace.cause.text
    assert steps(trace) == {}


def test_a_delayed_event_has_not_happened_yet_and_says_when_it_will(operator: Operator, choreo_command) -> None:
    operator.stage.publish(OrderPlaced(), "ORD-1", delay=timedelta(seconds=17))

    said = choreo_command("trace", "ORD-1")

    (row,) = (line for line in said.splitlines() if line.lstrip().startswith("->"))
    assert row.split()[:6] == ["->", "order.placed", "due", "in", "17", "s"]
    due = json.loads(choreo_command("trace", "ORD-1", "--json"))["events"][0]["due"]
    assert due == pytest.approx(operator.stage._clock.time() + 17)


@pytest.mark.parametrize("stopped", [("driver",), ("payment", "restaurant", "driver", "analytics")])
def test_a_delayed_event_does_not_go_on_by_itself_if_no_worker_of_its_only_hearer_lives(
    operator: Operator, stopped: tuple[str, ...]
) -> None:
    operator.stage.publish(BallReturned(), "ORD-1", delay=timedelta(seconds=17))
    assert operator.trace("ORD-1").cause.weight is Weight.WAITING
    operator.stop(*stopped)

    cause = operator.trace("ORD-1").cause

    assert (cause.name, cause.weight) == ("no worker", Weight.STUCK)
    who = "any service" if len(stopped) > 1 else "driver"
    assert cause.text.startswith("ball.returned is due in 17 s, at ")
    assert f", and no worker of {who} lives" in cause.text
    assert "worker" in str(cause.do)


def test_a_delayed_event_goes_on_if_one_of_its_hearers_has_a_worker(operator: Operator) -> None:
    operator.stage.publish(OrderPlaced(), "ORD-1", delay=timedelta(seconds=17))
    operator.trace("ORD-1")
    operator.stop("payment")

    assert operator.trace("ORD-1").cause.weight is Weight.WAITING


def test_a_due_retry_that_waits_in_its_queue_says_which_attempt_it_is(operator: Operator, choreo_command) -> None:
    operator.placed("ORD-later")
    operator.stage._clock.seconds += 1201
    operator.stage._send_due()

    cause = operator.trace("ORD-later").cause

    assert cause.text == "attempt 2 of 6 is 1st of 1 in the queue of payment.charge, which 1 worker consumes"
    assert "payment.charge  attempt 2, 1st of 1 in its queue" in choreo_command("trace", "ORD-later")


def test_a_delayed_event_is_why_the_next_one_was_not_announced(operator: Operator) -> None:
    operator.stage.publish(OrderPlaced(), "ORD-1", delay=timedelta(minutes=20))

    for event in (PaymentCharged, DriverAssigned):
        why = operator.why_not(event, "ORD-1")

        assert why.cause.name == "delayed"
        assert why.cause.text.startswith("order.placed is due in 20 min")
        assert "publish" not in str(why.cause.do)


def test_an_overdue_event_that_no_worker_sends_is_why_the_next_one_was_not_announced(operator: Operator) -> None:
    operator.stage.publish(OrderPlaced(), "ORD-1", delay=timedelta(minutes=20))
    operator.stage._clock.seconds += 1800

    why = operator.why_not(PaymentCharged, "ORD-1")

    assert why.cause.text.startswith("order.placed is due since ")
    assert why.cause.weight is Weight.STUCK


def test_a_delayed_event_of_a_service_without_a_worker_does_not_go_on_by_itself(monkeypatch) -> None:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged | None:
        app.publish(PaymentCharged(), "ORD-1", delay=timedelta(minutes=20))
        return None

    @app.on(PaymentCharged)
    def assign(charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    with Stage(app) as stage:
        stage.publish(OrderPlaced(), "ORD-1")
        stage.run()
        hurry = ("choreo schedule now ORD-1",)
        assert app.observe.why_not("driver.assigned", "ORD-1").cause.do == hurry

        alive = MemoryStore.presence

        def gone(*one) -> Presence:
            presence = alive(*one)
            return replace(presence, workers=(), gone=presence.workers)

        monkeypatch.setattr(MemoryStore, "presence", gone)
        monkeypatch.setattr(MemoryStore, "listening", lambda *_: None)
        why = app.observe.why_not("driver.assigned", "ORD-1")

    assert why.cause.text.startswith("payment.charged is due in 20 min, at ")
    assert ", and no worker of payment lives" in why.cause.text
    assert why.cause.weight is Weight.STUCK


def test_an_event_of_which_only_nothing_is_known_is_not_to_be_published_again(operator: Operator, closed) -> None:
    operator.place("ORD-1")
    operator.stage._queues.pending = [one for one in operator.stage.pending if one.handler == "restaurant.answer"]
    operator.stage.run()
    closed()

    cause = operator.why_not(PaymentCharged, "ORD-1").cause

    assert cause.name == "unknown"
    assert "publish" not in str(cause.do)


def test_a_story_of_thousands_of_events_is_read_and_cut(operator: Operator, choreo_command) -> None:
    operator.stage.publish(BallReturned(number=700), "ORD-1")
    operator.stage.run()

    said = choreo_command("trace", "ORD-1")

    assert "700 events in a loop of ball.returned" in said.replace("\n      ", " ")
    assert "lines more: --all" in said
    assert len(said.splitlines()) < 80


def test_a_loop_that_goes_on_is_the_cause(operator: Operator) -> None:
    operator.stage.publish(BallReturned(number=700), "ORD-1")
    with pytest.raises(EndlessLoopError):
        operator.stage.run(most=300)

    cause = operator.trace("ORD-1").cause

    assert (cause.name, cause.weight) == ("loop", Weight.STUCK)
    assert "events in a loop of ball.returned, and it goes on" in cause.text


def test_the_work_for_a_long_story_grows_with_its_length_and_not_with_its_square(
    operator: Operator, monkeypatch
) -> None:
    looks = 0

    def counted(run: Run) -> list[str]:
        nonlocal looks
        looks += 1
        return _events_of(run)

    monkeypatch.setattr("choreo.observe.tracer._events_of", counted)
    operator.stage.publish(BallReturned(number=200), "ORD-1")
    operator.stage.run()

    assert len(operator.trace("ORD-1").lines) > 600
    assert looks < 2000


@pytest.mark.parametrize("subject", ["ORD-1", "ORD-frozen", "ORD-later", "ORD-quiet", "ORD-rejected"])
def test_the_commands_fit_eighty_columns_and_speak_json(operator: Operator, choreo_command, subject: str) -> None:
    operator.placed(subject)

    assert choreo_command("trace", subject).startswith(f"{subject}  ")
    assert "\033" not in choreo_command("trace", subject, "--all")
    read = json.loads(choreo_command("trace", subject, "--json"))
    assert read["what"] == subject
    assert "data" not in read["events"][0]
    code = 0 if subject == "ORD-1" else 1
    assert "CAUSE " in choreo_command("why-not", "driver.assigned", subject, code=code)
    why = json.loads(choreo_command("why-not", "driver.assigned", subject, "--json", code=code))
    for answer in (read, why):
        assert isinstance(answer["do"], list)
        assert answer["do"] == answer["cause"]["do"]


@pytest.mark.parametrize(("terminal", "columns"), [(40, 60), (60, 60), (72, 72), (100, 100), (300, 120)])
def test_a_trace_is_as_wide_as_the_terminal(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, terminal: int, columns: int
) -> None:
    operator.placed("ORD-frozen-with-a-long-subject")
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: operator.app)
    monkeypatch.setattr("choreo.cli.verdict._is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(terminal))

    lines = CliRunner().invoke(choreo, ["trace", "ORD-frozen-with-a-long-subject"]).output.splitlines()

    assert max(map(len, lines)) <= columns
    (head,) = (line for line in lines if line.startswith("TIME"))
    assert len(head) == columns - 1
    assert any("payment.charge" in line for line in lines)


def test_a_name_that_is_too_long_for_its_column_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    app = service("payment")

    @app.on(OrderPlaced, name="charge_the_customer_of_an_order_at_once_or_later")
    def charge(order: OrderPlaced) -> None: ...

    with Stage(app) as stage:
        stage.publish(OrderPlaced(), "ORD-1")
        stage.run()
        monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
        lines = CliRunner().invoke(choreo, ["trace", "ORD-1"]).output.splitlines()

    (number,) = (place for place, line in enumerate(lines) if "payment.charge" in line)
    assert lines[number].split()[-1] == "payment.charge_the_customer_of_an_order_at_once_or_later"
    assert re.fullmatch(r" +\d+ ms +\d+ ms", lines[number + 1])


def test_the_data_of_events_is_shown_only_if_asked_for(operator: Operator, choreo_command) -> None:
    operator.stage.publish(BallReturned(number=77), "ORD-1")

    assert "77" not in choreo_command("trace", "ORD-1").partition("TIME")[2].replace(":", "")[60:]
    assert '"number": 77' in choreo_command("trace", "ORD-1", "--data")
    assert json.loads(choreo_command("trace", "ORD-1", "--data", "--json"))["events"][0]["data"] == {"number": 77}


@pytest.fixture
def closed(operator: Operator, monkeypatch: pytest.MonkeyPatch):
    """A broker like RabbitMQ: it only counts the messages in its queues."""

    def close(**counts: int) -> None:
        depths = {key.replace("_", "."): Depth(count) for key, count in counts.items()}
        look = BrokerLook(is_open=False, depths=depths)
        monkeypatch.setattr(StageRuntime, "look_at_broker", lambda self, *_: (self.pending(), look)[1])

    return close


def test_a_broker_that_only_counts_its_messages_still_tells_where_an_event_may_be(operator: Operator, closed) -> None:
    operator.place("ORD-1")
    for pending in operator.stage.pending:
        if pending.handler == "restaurant.answer":
            operator.stage._queues.pending = [pending]
    operator.stage.run()
    closed(payment_charge=3)

    trace, why = operator.trace("ORD-1"), operator.why_not(PaymentCharged, "ORD-1")

    for cause in (trace.cause, why.cause):
        assert cause.text == "it is perhaps among the 3 messages in the queue of payment.charge"
        assert cause.weight is Weight.WAITING


def test_an_event_that_nobody_handled_may_be_in_a_queue_that_cannot_be_looked_into(operator: Operator, closed) -> None:
    closed(payment_charge=1)

    cause = operator.why_not(PaymentCharged, "ORD-1").cause

    assert cause.text == "it is perhaps among the 1 message in the queue of payment.charge"


def test_an_event_far_behind_in_a_queue_says_when_its_turn_comes(operator: Operator) -> None:
    for number in range(12):
        operator.placed(f"DONE-{number}")
    for number in range(15):
        operator.place(f"ORD-{number}")
    operator.stage._clock.seconds += 5

    before = operator.trace("ORD-14").cause
    store = operator.stage._store
    for number in range(5):
        store._drawers["payment.charge"].runs.append(
            Run(f"e-{number}", "s", "s", "order.placed", 1, Result.DONE, at=store.now() - 1)
        )
    cause = operator.trace("ORD-14").cause

    assert "it is 15th of 15 in the queue of payment.charge" in cause.text
    # Nothing has ended since they wait; the runs before tell nothing.
    assert "per second" not in before.text
    assert "; at 1 per second its turn comes in about 15 s" in cause.text
    assert cause.do == (
        "# wait, or start another worker:",
        "# celery -A SERVICE_MODULE worker  # of payment",
    )


def test_an_event_that_nobody_hears_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged()

    with Stage(app) as stage:
        stage.publish(OrderPlaced(), "ORD-1")
        stage.run()
        monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)

        said = CliRunner().invoke(choreo, ["trace", "ORD-1"]).output

    assert "payment.charged  nobody hears it" in said
    assert "order.placed  nobody" not in said


def test_a_copy_of_an_event_that_was_handled_is_not_open(operator: Operator) -> None:
    event = operator.placed("ORD-1")
    operator.stage.publish(event)

    assert operator.trace("ORD-1").is_done


def test_a_handler_that_announced_another_event_has_perhaps_done_right(operator: Operator) -> None:
    operator.placed("ORD-rejected")

    cause = operator.why_not(OrderConfirmed, "ORD-rejected").cause

    assert cause.weight is Weight.UNKNOWN
    assert cause.text.startswith("restaurant.answer handled order.placed at ")
    assert cause.text.endswith("and announced order.rejected")


def test_of_several_causes_the_one_that_does_not_mend_itself_is_told_and_of_these_the_oldest() -> None:
    waiting, unknown, old, new = (
        Cause(name, name, "", weight, since)
        for name, weight, since in [
            ("waiting", Weight.WAITING, 1.0),
            ("unknown", Weight.UNKNOWN, 2.0),
            ("old", Weight.STUCK, 3.0),
            ("new", Weight.STUCK, 4.0),
        ]
    )

    assert heaviest([waiting, new, unknown, old]) is old
    assert heaviest([waiting, unknown]) is unknown
    assert heaviest([]) is None


def test_the_events_of_another_order_are_no_reason(operator: Operator) -> None:
    operator.placed("ORD-later")
    operator.placed("ORD-later-frozen")

    assert operator.why_not(PaymentCharged, "ORD-later").cause.name == "retry"
    assert operator.why_not(PaymentCharged, "ORD-later-frozen").cause.name == "dead letter"


def test_foreign_text_is_escaped(operator: Operator, choreo_command) -> None:
    operator.placed(f"frozen {HOSTILE}")

    said = choreo_command("trace", f"frozen {HOSTILE}") + choreo_command(
        "why-not", "driver.assigned", f"frozen {HOSTILE}", code=1
    )

    assert all(character.isprintable() or character == "\n" for character in said)


def test_an_unknown_subject_is_one_line_and_an_exit_code(choreo_command) -> None:
    assert "Nothing is known of 'ORD-1': no event of it waits" in choreo_command("trace", "ORD-1", code=1)


def test_an_event_that_was_announced_names_the_subject_that_was_asked_for(operator: Operator) -> None:
    operator.placed("ORD 1")

    assert operator.why_not(DriverAssigned, "ORD 1").cause.do == ("choreo trace 'ORD 1'",)


def test_each_step_is_a_line_that_a_shell_takes_and_none_is_broken(operator: Operator, choreo_command) -> None:
    subject = f"quiet{' and long' * 12}"
    operator.placed(subject)
    placed = operator.trace(subject).story

    for said in (
        choreo_command("trace", subject, code=0),
        choreo_command("why-not", "driver.assigned", subject, code=1),
    ):
        steps = [line[6:] for line in f"DO {said.partition(chr(10) + 'DO ')[2]}".splitlines()]
        assert steps == [
            "# read the code of payment.charge",
            "# is it mended? Then let it handle the event again:",
            f"choreo rerun payment.charge {placed}",
            "# is that right? If not, announce it by hand, with its fields in --data:",
            f"choreo publish payment.charged --caused-by {placed} --data '{{}}'",
        ]


def test_what_nobody_knows_is_said_with_the_store_and_the_namespace(monkeypatch):
    empty = service("command_line", choreo_namespace="newcomer")
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: empty)
    monkeypatch.setattr("choreo.observe.elsewhere.Elsewhere.seen", lambda *_: None)
    monkeypatch.setattr(type(empty.runtime), "look_at_broker", lambda *_: BrokerLook())

    said = CliRunner().invoke(choreo, ["trace", "ORD-1"]).output

    assert "The store is memory: (namespace 'newcomer')." in said
