"""The Celery task around a batch handler, and what a process of the pool does with a batch."""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

from celery._state import get_current_app
from celery.app.task import Context
from celery.exceptions import Reject

from choreo.broker.incoming import UNCOUNTED
from choreo.cached import cached_property
from choreo.delivery.batch import BatchRun, MemberDelivery, NotAloneError
from choreo.delivery.delivery import Delivery
from choreo.delivery.stand_in import StandIn
from choreo.errors import EnvelopeError
from choreo.events.envelope import Envelope
from choreo.worker.handler import HandlerTask, read

#: A member of a batch for the pool: its task id, Celery's table of its request, and the event as JSON.
Sent = tuple[str, dict[str, Any], str]
#: Celery's answer for one run: 1 if it has failed, the result or the error, and the seconds that it took.
Answer = tuple[int, Any, float]
#: Celery's function that runs a task by its name. Callback: gets name, task id, request, body, content type, encoding.
Trace = Callable[..., Answer]


class BatchTask(HandlerTask):
    """
    The task of a batch handler, in front of `HandlerTask` or of the fast lane's class among the bases.

    Each event of a batch is a run of this task. The first of them runs the whole batch, so that whatever observes a run
    observes the batch. The others find their outcome, and return or raise it.
    """

    abstract = True
    # The fast lane's would take single events past the worker's batches.
    Strategy = "celery.worker.strategy:default"

    def delivery(self, event: str | dict[str, Any], envelope: Envelope) -> Delivery | StandIn:
        """The delivery of this run. Raises `EnvelopeError` if the handler cannot take such an event."""
        if isinstance(event, MemberText):
            return event.batch.delivery_of(event)
        return super().delivery(event, envelope)

    def hold(self, what: object, error: BaseException, event: object) -> Reject:
        """Wait as `HandlerTask.hold`, but once for all members of a batch."""
        if isinstance(event, MemberText) and event.batch.has_waited(error):
            return Reject(error, requeue=UNCOUNTED)
        return super().hold(what, error, event)


class MemberText(str):
    """The event of a member as JSON, and the batch that it is in."""

    __slots__ = ("batch", "envelope", "place")
    batch: "PoolBatch"
    place: int

    @classmethod
    def of(cls, text: str, batch: "PoolBatch", place: int) -> "MemberText":
        """This text, at this place in the batch."""
        made = cls(text)
        made.batch, made.place = batch, place
        return made


class PoolBatch:
    """One batch, in the process that runs it. ``task`` is the handler's."""

    def __init__(self, task: Any, members: Sequence[Sent]) -> None:
        self._task, self.members = task, members
        self._waited: set[int] = set()
        #: Seconds that the batch took; None before it has run.
        self.took: float | None = None

    def run(self, trace: Trace) -> list[Answer]:
        """Run the task of each member. Returns Celery's answers, in their order."""
        answers = []
        for place, (task_id, request, text) in enumerate(self.members):
            body: Any = [MemberText.of(text, self, place)], {}, {}
            failed, result, took = trace(self._task.name, task_id, request, body, None, None)
            answers.append((failed, result, took if self.took is None or failed else self.took))
        return answers

    def delivery_of(self, event: MemberText) -> "Member":
        """What stands in for the delivery of a member. Raises `EnvelopeError` if the handler cannot take the event."""
        delivery = self._deliveries[event.place]
        if isinstance(delivery, EnvelopeError):
            raise delivery
        return Member(delivery, self)

    def outcome_of(self, delivery: MemberDelivery) -> str:
        """The outcome of a member, after all have run. Raises as `BatchRun.outcome_of` does."""
        if self.took is None:
            began = monotonic()
            self._run.live()
            self.took = monotonic() - began
        return self._run.outcome_of(delivery)

    def has_waited(self, error: BaseException) -> bool:
        """True if a member was held because of this error before."""
        is_known = id(error) in self._waited
        self._waited.add(id(error))
        return is_known

    @cached_property
    def _deliveries(self) -> list[MemberDelivery | EnvelopeError]:
        return [self._made(request, text) for _, request, text in self.members]

    @cached_property
    def _run(self) -> BatchRun:
        return BatchRun([one for one in self._deliveries if isinstance(one, MemberDelivery)])

    def _made(self, request: dict[str, Any], text: str) -> MemberDelivery | EnvelopeError:
        # The delivery of a run is made from the request of that run.
        stack = self._task.request_stack
        stack.push(Context(request, args=(text,), called_directly=False, kwargs={}))
        try:
            made: Any = self._task.delivery(text, read(text))
        except EnvelopeError as error:
            return error
        finally:
            stack.pop()
        return made  # type: ignore[no-any-return]


class Member(StandIn):
    """Takes the place of the delivery of a member: it has run, or runs, with the others."""

    def __init__(self, delivery: MemberDelivery, batch: PoolBatch) -> None:
        super().__init__(delivery)
        self._own, self._batch = delivery, batch

    def live(self) -> str:
        """Returns or raises the outcome. Raises `Reject` for a member that must run again, alone."""
        try:
            return self._batch.outcome_of(self._own)
        except NotAloneError as back:
            raise Reject(back, requeue=True) from back


def members_in(args: Sequence[Any] | None) -> tuple[str, ...]:
    """The task ids of all members of the batch whose run has these arguments; () for a run of one event."""
    first = args[0] if args else None
    return tuple(task_id for task_id, *_ in first.batch.members) if isinstance(first, MemberText) else ()


def run_members(trace: Trace, name: str, members: Sequence[Sent]) -> list[Answer]:
    """Run a batch in a process of the pool: see `PoolBatch.run`."""
    return PoolBatch(get_current_app().tasks[name], members).run(trace)
