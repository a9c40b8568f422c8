"""What a handler knows about its delivery, and what `publish` does inside it."""

import contextvars
import os
import threading
import time
from collections.abc import Callable

import pytest

from choreo import Announcement, Context, HandlerEndedError
from choreo.declare.context import current
from tests.unit.events import OrderPlaced, PaymentCharged, envelope
from tests.unit.stage import Stage, service


@pytest.fixture
def context() -> Context:
    return Context(
        service="payment",
        handler="payment.charge",
        envelope=envelope(OrderPlaced(customer_id="alice"), subject="ORD-1", id="e-1"),
        attempt=2,
        attempts=6,
        idempotency_key="payment.charge/e-1",
    )


def again(context: Context) -> Context:
    """The context of another attempt at the same work."""
    return Context(context.service, context.handler, context.envelope, 3, context.attempts, context.idempotency_key)


def test_it_tells_subject_and_story(context):
    assert context.subject == "ORD-1"
    assert context.correlation_id == "story-1"


def test_what_is_announced_follows_from_the_event_that_caused_it(context):
    announced = context.announce(PaymentCharged(amount_cents=5))

    assert announced.subject == "ORD-1"
    assert announced.correlation_id == "story-1"
    assert announced.causation_id == "e-1"
    assert announced.source == "payment"
    assert announced.data == {"amount_cents": 5}
    assert context.announced == [announced]


def test_what_is_announced_can_be_about_something_else(context):
    assert context.announce(PaymentCharged(), "PAY-1").subject == "PAY-1"
    assert context.announce(PaymentCharged().about("PAY-2"), "PAY-1").subject == "PAY-2"


def test_the_same_facts_get_the_same_ids_when_the_handler_runs_again(context):
    first = [context.announce(PaymentCharged()).id, context.announce(PaymentCharged()).id]

    other = again(context)
    second = [other.announce(PaymentCharged()).id, other.announce(PaymentCharged()).id]

    assert first == second
    assert len(set(first)) == 2


def test_other_work_announces_other_ids(context):
    other = Context("payment", "payment.refund", context.envelope, 1, 6, "payment.refund/e-1")

    assert context.announce(PaymentCharged()).id != other.announce(PaymentCharged()).id


def test_it_is_current_while_the_handler_runs_and_only_in_its_thread(context):
    elsewhere = []

    with context.active():
        thread = threading.Thread(target=lambda: elsewhere.append(current()))
        thread.start()
        thread.join()
        assert current() is context

    assert current() is None
    assert elsewhere == [None]


def test_it_is_no_longer_current_after_a_failure(context):
    with pytest.raises(RuntimeError), context.active():
        raise RuntimeError

    assert current() is None


# -- a context that outlives its handler ----------------------------------------------------------------------------


class Background:
    """A service whose handler starts a thread with a copy of its context, and does not wait for it."""

    def __init__(self, work: Callable[[], object], fails: bool = False) -> None:
        self.app = service("payment")
        self.returned, self.result = threading.Event(), []

        def later() -> None:
            self.returned.wait(10)
            try:
                self.result.append(work())
            except Exception as error:
                self.result.append(error)

        @self.app.on(OrderPlaced)
        def charge(order: OrderPlaced):
            copied = contextvars.copy_context()
            self.thread = threading.Thread(target=copied.run, args=(later,))
            self.thread.start()
            if fails:
                raise RuntimeError("declined")

        self.stage = Stage(self.app)

    def run(self) -> object:
        self.stage.deliver(OrderPlaced(customer_id="alice"), subject="ORD-1", id="e-1")
        assert not self.stage.events
        self.returned.set()
        self.thread.join()
        return self.result[0]


@pytest.mark.parametrize("fails", [False, True], ids=["succeeded", "failed"])
def test_an_event_that_is_published_after_the_handler_has_ended_leaves_at_once_in_the_same_story(fails):
    background = Background(lambda: background.app.publish(PaymentCharged()), fails)

    published = background.run()

    assert background.stage.events == [published]
    assert (published.subject, published.correlation_id, published.causation_id) == ("ORD-1", "story-1", "e-1")


def test_many_events_that_are_published_after_the_handler_has_ended_leave_at_once():
    background = Background(lambda: background.app.publish_many([PaymentCharged(), PaymentCharged()]))

    assert background.run() == 2
    assert len({event.id for event in background.stage.events}) == 2


def test_a_delayed_event_that_is_published_after_the_handler_has_ended_is_kept_and_can_be_called_off():
    background = Background(lambda: [background.app.publish(PaymentCharged(), delay=wait) for wait in (60, 60)])

    kept, called_off = background.run()
    assert isinstance(kept, Announcement)
    assert called_off.cancel()
    background.stage.pass_time(61)

    assert [event.id for event in background.stage.events] == [kept.id]


def test_a_delayed_event_of_the_handler_can_be_called_off_after_the_handler_has_ended():
    announced = []
    background = Background(lambda: announced[0].cancel())

    @background.app.around
    def announce(context, proceed):
        announced.append(background.app.publish(PaymentCharged(), delay=60))
        proceed()

    assert background.run() is True
    background.stage.pass_time(61)
    assert background.stage.events == []


def test_the_context_itself_announces_nothing_after_its_handler_has_ended(context):
    with context.active():
        context.announce(PaymentCharged())

    with pytest.raises(HandlerEndedError, match=r"payment\.charge has ended, and this PaymentCharged"):
        context.announce(PaymentCharged())
    with pytest.raises(HandlerEndedError, match="call off its events with"):
        context.withdraw("e-2")
    assert len(context.announced) == 1


def test_threads_of_a_handler_that_announce_at_the_same_time_announce_different_events(context):
    class Slow(PaymentCharged, type="payment.charged_slowly"):
        def model_dump(self, **options):
            time.sleep(0.01)
            return super().model_dump(**options)

    with context.active():
        threads = [threading.Thread(target=context.announce, args=(Slow(),)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len({event.id for event in context.announced}) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
def test_a_forked_child_of_a_handler_is_outside_its_context(context):
    with context.active():
        child = os.fork()
        if not child:
            os._exit(0 if current() is None else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert current() is context
