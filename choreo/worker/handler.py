"""The Celery task around a handler."""

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any, ClassVar

from celery.app.task import Task
from celery.exceptions import Reject
from celery.exceptions import Retry as CeleryRetry

from choreo.broker.incoming import EventText
from choreo.cached import cached_property
from choreo.declare.join import Join
from choreo.declare.subscription import Subscription
from choreo.delivery.delivery import Delivery, Steps
from choreo.delivery.failure import RetryScheduledError, harmless, is_ending, is_stop, line_of
from choreo.delivery.kinds import delivery_to
from choreo.delivery.notice import park
from choreo.delivery.probe import Probe
from choreo.delivery.revocation import Revocation
from choreo.delivery.stand_in import StandIn
from choreo.errors import EnvelopeError, StoreError, UnansweredError
from choreo.events.envelope import Envelope
from choreo.events.lineage import Lineage
from choreo.events.message import Message, parsed
from choreo.store.claims import Claim
from choreo.store.slots import Slot
from choreo.worker.logs import told
from choreo.worker.outage import reject_after_outage, reject_after_pause
from choreo.worker.request import PROBE, SPECIAL
from choreo.worker.slots import SLOT
from choreo.worker.task import SafeTask

logger = logging.getLogger(__name__)

#: The field of a request that says that `HandlerTask.run` has begun. Only kept where an error does not tell that.
_BEGUN = "choreo_begun"


@dataclass(slots=True)
class _Begun:
    """One run of a task: the event as it came, and how far its delivery has come."""

    event: str | dict[str, Any]
    envelope: Envelope | None = None
    delivery: Delivery | StandIn | None = None
    #: True once the event is a dead letter, since it cannot be delivered.
    is_parked: bool = False


class HandlerTask(SafeTask):
    """
    The task ``<service>.<handler>``: runs one delivery.

    One subclass per handler is made when the service is finalized. ``subscription`` is its declaration, ``runtime`` the
    service's.
    """

    abstract = True
    subscription: ClassVar[Subscription]
    # Celery looks for the app of a task with several calls.
    runtime: ClassVar[Any]

    def run(self, event: str | dict[str, Any]) -> str:
        """
        Handle one delivery, the event as JSON. The answer is for people who read logs and Flower.

        Raises Celery's `Retry` if a retry is scheduled, the handler's error or an `EnvelopeError` if the event became a
        dead letter, and `Reject`, which puts the message back into its queue, if nothing could be recorded. That is
        counted, unless the store is away: after `Terms.max_deliveries` times the event becomes a dead letter.
        """
        begun = _Begun(event)
        self._note_begun()
        try:
            return self._begin(begun).live()
        except BaseException as error:
            other = self._in_place_of(error, begun)
            if other is None:
                raise
            raise other from other.__cause__

    def steps(self, event: str | dict[str, Any]) -> Steps:
        """
        The same delivery, whose coroutine runs without a thread that waits for it: see `Delivery.steps`.

        Returns and raises as `run` does.
        """
        begun = _Begun(event)
        self._note_begun()
        try:
            return (yield from self._begin(begun).steps())
        except GeneratorExit:
            raise  # the process ends
        except BaseException as error:
            other = self._in_place_of(error, begun)
            if other is None:
                raise
            raise other from other.__cause__

    def _note_begun(self) -> None:
        if self._is_called_through:
            for request in self.request_stack.stack:  # outside of a worker, Celery's `__call__` adds one of its own
                setattr(request, _BEGUN, True)

    def _begin(self, begun: "_Begun") -> Delivery | StandIn:
        """Read the event, and make its delivery. An event that cannot be delivered is parked, and its error raised."""
        try:
            begun.envelope = read(begun.event)
            begun.delivery = self.delivery(begun.event, begun.envelope)
        except EnvelopeError as error:
            self._park(begun.event, begun.envelope, error)
            begun.is_parked = True
            raise harmless(error) from error.__cause__
        return begun.delivery

    def _in_place_of(self, error: BaseException, begun: "_Begun") -> BaseException | None:
        """The error to raise, with its cause, in place of the one with which a delivery ended; None: that one."""
        delivery = begun.delivery
        if isinstance(error, Reject):
            return None  # of a batch, one of whose events must run alone; what a handler raises comes wrapped
        if isinstance(error, RetryScheduledError):
            return _caused(CeleryRetry(error.reason, error.error, error.seconds), error.__cause__)
        if begun.is_parked or (delivery is not None and delivery.settled):
            if begun.is_parked or (delivery is not None and delivery.is_told):
                told(self.request.id)
            return None
        if is_stop(error):
            if isinstance(error, Exception) and is_ending():
                # Celery would ack a message whose task fails. An error of its own comes from a handler's cleanup.
                return _caused(Reject(error, requeue=True), error)
            return None
        # Nothing is recorded yet, so an ack would lose the event. The store may be away, or a time limit may have
        # ended this method between two lines.
        what = delivery or self.name
        told(self.request.id)
        if isinstance(error, StoreError) and error.is_outage:
            return _caused(self.hold(what, error, begun.event), error)
        if self._is_given_up(begun.event, begun.envelope, error):
            unanswered = UnansweredError(f"{what} could not be settled: {line_of(error)}", begun.envelope)
            return _caused(unanswered, error)
        logger.error("%s could not be settled; it stays in its queue", what, exc_info=error)
        return _caused(self.hold(what, error, begun.event), error)

    def hold(self, what: object, error: BaseException, event: object) -> Reject:  # noqa: ARG002 - a batch reads it
        """Wait after an error that kept a delivery from being settled. Returns the error that gives it back."""
        if isinstance(error, StoreError) and error.is_outage:
            return reject_after_outage(what, self.runtime.store, error)
        return reject_after_pause(error)

    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """
        Called by Celery when the task has failed, in the process that ran it.

        If `run` did not begin, nothing is recorded: a base class of the user's (``task_cls``) has raised in
        ``before_start`` or ``__call__``. Then the event becomes a dead letter. Without a store it stays in its queue.
        """
        # The stack is empty in the worker's main process, which calls this after a time limit.
        if self.request_stack.top is not None and not self._has_begun(exc):
            fault = EnvelopeError(f"the handler was not called: {line_of(exc)}")
            try:
                self._park(args[0] if args else kwargs, None, fault)
                told(task_id)
            except StoreError as error:
                raise Reject(error, requeue=True) from error
        super().on_failure(exc, task_id, args, kwargs, einfo)

    @cached_property
    def _is_called_through(self) -> bool:
        """True if a class of the user's has a ``__call__`` of its own, which may raise before `run` and after it."""
        # A worker replaces the `__call__` of Celery's own class, which is not the user's.
        return any("__call__" in vars(cls) for cls in type(self).__mro__ if cls is not Task)

    def _has_begun(self, error: BaseException) -> bool:
        """True if the error has come through `run`, or is a later one."""
        if getattr(self.request_stack.top, _BEGUN, False):
            return True
        codes = {HandlerTask.run.__code__, HandlerTask.steps.__code__, type(self).run.__code__}
        seen: BaseException | None = error
        while seen is not None:
            if any(frame.f_code in codes for frame, _ in walk_tb(seen.__traceback__)):
                return True
            seen = seen.__context__
        return False

    def delivery(self, event: str | dict[str, Any], envelope: Envelope) -> Delivery | StandIn:  # noqa: ARG002
        """The delivery of this run. Raises `EnvelopeError` if the handler cannot take such an event."""
        request = self.request
        redelivered = bool((request.delivery_info or {}).get("redelivered"))
        delivery = self.make_delivery(
            envelope, request.retries + 1, redelivered=redelivered, lineage=lineage_in(request)
        )
        return unless_special(delivery, request)

    def claim_of(self, argument: Any, retries: int) -> Claim | None:
        """The claim of a run with this argument. Raises `EnvelopeError` if it is no event for this handler."""
        return self.make_delivery(read(argument), retries + 1).claim

    def make_delivery(self, envelope: Envelope, attempt: int, **options: Any) -> Delivery:
        """A delivery to this handler. ``options`` are those of `Delivery`, and so are the errors."""
        return delivery_to(self.runtime, self.subscription, envelope, attempt, **options)

    def _is_given_up(self, event: str | dict[str, Any], envelope: Envelope | None, error: BaseException) -> bool:
        """Count that an event could not be settled. True if that was too often, and it is a dead letter now."""
        with suppress(Exception):  # it stays in its queue, and is counted the next time
            if count := self.returned_too_often(str(event)):
                reason = f"it was begun {count} times, and could not be settled: {line_of(error)}"
                self._park(event, envelope, UnansweredError(reason, envelope))
                return True
        return False

    def _park(self, event: str | dict[str, Any], envelope: Envelope | None, error: EnvelopeError) -> None:
        runtime, retries = self.runtime, self.request.retries
        queue = runtime.queue_of(self.name)
        if envelope is not None:
            # The attempts before this one are settled, so the replay of the letter must not be a first attempt.
            message = Message.carrying(envelope, exchange="", routing_key=queue, retries=retries)
            join = self.subscription if isinstance(self.subscription, Join) else None
            park(runtime, self.name, message, error, (envelope,), join)
            return
        body = json.dumps([[event], {}, {}], ensure_ascii=False).encode(errors="surrogatepass")
        park(runtime, self.name, Message("", queue, body, {"task": self.name, "retries": retries}), error)


def _caused(error: BaseException, cause: BaseException | None) -> BaseException:
    error.__cause__ = cause
    return error


def lineage_in(request: Any) -> Lineage:
    """The lineage of the run that Celery's request is for."""
    return Lineage(request.root_id, request.parent_id)


def unless_special(delivery: Delivery, request: Any) -> Delivery | StandIn:
    """
    The delivery, with the slot of its run; or a `Revocation` or `Probe` in its place.

    For a request that was read before: the first read takes long.
    """
    token = getattr(request, SLOT, None)
    if token:
        delivery.holds = (Slot(delivery.claim.handler, token),)
    special = getattr(request, SPECIAL, None)
    if not special:
        return delivery
    kind, text = special
    return Probe(delivery, text) if kind == PROBE else Revocation(delivery, text)


def read(event: str | dict[str, Any]) -> Envelope:
    """The event that a task message carries. Raises `EnvelopeError` if it cannot be read."""
    if isinstance(event, EventText):
        return event.envelope
    try:
        return Envelope.from_wire(parsed(event) if isinstance(event, str) else event)
    except (ValueError, RecursionError) as error:
        if isinstance(error, EnvelopeError):
            raise
        raise EnvelopeError(f"the event cannot be read: {error}") from error
