"""A child of the prefork pool: it runs the handlers of a bundle, one after the other, and answers for all of them.

Celery's pool hands a child one task at a time, with a request of forty fields, and gets one answer back. Here the child
gets the texts of the messages as the worker has taken them, does with each what `Shortcut` does in the solo pool, and
answers once for the bundle. The commits of the bundle are sent ahead, and their answers are read before the bundle is
answered: see commits.py. So the worker learns of each run whether it is recorded.

Runs that something observes, and failures, are Celery's: its own tracer reports them, with the request that it would
have got.
"""

import os
import pickle
from collections.abc import Sequence
from time import monotonic, time
from typing import Any, NamedTuple

from billiard.einfo import ExceptionInfo
from billiard.exceptions import SoftTimeLimitExceeded
from celery._state import get_current_app
from celery.app.trace import fast_trace_task, trace_task_ret
from celery.exceptions import Reject

from choreo.broker.incoming import UNCOUNTED, EventText
from choreo.broker.redis.bounded import BoundedMessage
from choreo.broker.redis.receipt import Receipt
from choreo.broker.redis.taken import Taken, payload_of
from choreo.cached import cached_property
from choreo.events.ids import task_id
from choreo.fast.commits import Commits, Sent
from choreo.fast.fused_store import FusedStore
from choreo.fast.request import HandlerRequest
from choreo.fast.shortcut import RunContext
from choreo.fast.tracer import Failed, attempt, is_listened_to, shown


class Job(NamedTuple):
    """One run of a bundle. The fields but the first are those of `Taken`."""

    handler: str
    queue: str
    tag: str
    text: bytes
    claim: str
    certain_until: float
    #: True if the commit may be sent ahead. Not if a soft time limit may interrupt it at any line.
    may_send_ahead: bool


class Success(NamedTuple):
    """The answer to a run that has succeeded."""

    #: The task's answer, as Flower shows it.
    shown: str
    #: Seconds.
    took: float
    #: When it began: a Unix time.
    began: float
    #: True if its commit has acked the message.
    is_acked: bool
    #: For worker events: the event in words, and the ids of the root and the parent. None if nothing listens.
    about: tuple[str, str, str | None] | None


#: The answer to one run: a `Success`; Celery's outcome, pickled, of a run that Celery has traced; None if the worker
#: must deliver the message the usual way.
Answer = Success | bytes | None


def run_bundle(slot: int | None, jobs: Sequence[tuple[Any, ...]], is_told: bool) -> list[Answer]:
    """
    Run a bundle in this child. Returns the answer to each of its runs.

    ``slot`` is the bundle's in the `Progress` that the worker shares with its children; None: the bundle has one run.
    ``jobs`` are `Job` objects as plain tuples. ``is_told``: worker events are sent.
    """
    child = _child()
    child.begin_bundle()
    progress = child.app.runtime.lane.progress
    answers: list[Answer] = []
    tags: list[str] = []
    try:
        for index, fields in enumerate(jobs):
            job = Job(*fields)
            child.left = len(jobs) - index - 1
            may_begin = slot is None or progress is None or progress.begin(slot, index)
            answers.append(child.run(job, is_told) if may_begin else None)
            tags.append(job.tag)
    except BaseException:  # it ends this process
        child.recover()
        raise
    child.settle()
    return [child.final(tag, answer) for tag, answer in zip(tags, answers, strict=True)]


class Child:
    """This process, as a child of the pool of a service's worker."""

    def __init__(self, app: Any) -> None:
        self.app, self.pid = app, os.getpid()
        self._hostname = app.runtime.node
        self._trace = fast_trace_task if app.use_fast_trace_task else trace_task_ret
        #: How many runs of the bundle follow the one in hand.
        self.left = 0

    @cached_property
    def _commits(self) -> "ChildCommits | None":
        store = self.app.runtime.store
        return ChildCommits(store, self) if isinstance(store, FusedStore) else None

    def run(self, job: Job, is_told: bool) -> Answer:
        """Run one handler."""
        task = self.app.tasks[job.handler]
        taken = Taken(job.queue, job.tag, job.text, job.claim, job.certain_until)
        event = taken.event
        if event is None:
            return None
        commits = self._commits if job.may_send_ahead else None
        is_clear = task.has_short_tracer and not is_listened_to()
        try:
            receipt = Receipt(job.tag, job.claim, job.certain_until)
            event.prepared = task.fast_delivery(event.envelope, 1, receipt, commits, event.lineage)
        except Exception:  # the usual way meets the same error, and handles it
            return None
        run = ChildRun(self, task, taken, event)
        if not is_clear:
            return self._dumped(self._by_celery(run))
        began, since = time(), monotonic()
        answer, error = attempt(task, RunContext(run, event), [event], {}, here_again=True)  # type: ignore[arg-type]
        if error is not None:
            if _is_signal(error):
                self.recover()
            return self._dumped(self._failed(run, error))
        took = monotonic() - since
        is_acked = commits is not None and commits.decides(job.tag)
        about = (str(event.envelope), run.root_id, event.lineage.parent_id) if is_told else None
        return Success(shown(task, answer), took, began, is_acked, about)

    def _by_celery(self, run: "ChildRun") -> Any:
        request = run.request
        body = request.body, request.content_type, request.content_encoding
        return self._trace(run.task.name, run.id, request.request_dict, *body)

    def _failed(self, run: "ChildRun", error: BaseException) -> Any:
        """Let Celery report the error that the handler raised. Returns Celery's outcome."""
        body: Any = [Failed.instead_of(run.event, error)], {}, {}
        return self._trace(run.task.name, run.id, run.request.request_dict, body, None, None)

    def _dumped(self, outcome: Any) -> bytes:
        """Celery's outcome, pickled here: one that cannot be pickled must not spoil the answers to the other runs."""
        try:
            return pickle.dumps(outcome)
        except Exception as error:
            failed, value, runtime = outcome
            return pickle.dumps((failed, repr(value), runtime) if not failed else _unwritable(error, value))

    def begin_bundle(self) -> None:
        """Call this before the first run of a bundle."""
        if self._commits is not None:
            self._commits.begin_bundle()

    def settle(self) -> None:
        """Send all commits, and wait for their answers."""
        if self._commits is not None:
            self._commits.settle()

    def recover(self) -> None:
        """The same after a signal, which may have interrupted the reading of an answer."""
        if self._commits is not None:
            self._commits.recover()

    def final(self, tag: str, answer: Answer) -> Answer:
        """The answer to a run, after the commits were answered."""
        commits = self._commits
        if commits is None or not isinstance(answer, Success) or not answer.is_acked:
            return answer
        if tag in commits.returned:
            return pickle.dumps(_rejected(requeue=True if commits.returned[tag] else UNCOUNTED))
        if tag in commits.left:
            return answer._replace(is_acked=False)
        return answer if tag in commits.heard else pickle.dumps(_rejected(UNCOUNTED))

    def request(self, run: "ChildRun") -> Any:
        """The request that Celery would have sent for a run."""
        message = BoundedMessage(payload_of(run.taken, run.taken.tag), channel=_NO_CHANNEL)
        message.choreo_event, message.choreo_queue = run.event, run.taken.queue
        runtime = self.app.runtime
        self.app.amqp.queues[runtime.queue_of(run.task.name)].prepare(message)
        request = HandlerRequest(
            message,
            app=self.app,
            hostname=self._hostname,
            task=run.task,
            body=message.body,
            headers=message.headers,
        )
        request.request_dict["is_eager"] = False
        return request


class _NoChannel:
    """In place of the channel of a message: a child has none."""

    def decode_body(self, body: Any, encoding: str | None = None) -> Any:  # noqa: ARG002 - kombu's signature
        """The body as it is: `Taken.event` has seen that it is a text."""
        return body


_NO_CHANNEL = _NoChannel()


class ChildRun:
    """One run of a handler in a child. It has what `RunContext` reads of a run."""

    def __init__(self, child: Child, task: Any, taken: Taken, event: EventText) -> None:
        self.task, self.taken, self.event = task, taken, event
        self._child = child
        self.id = task_id(event.envelope.occasion, task.name)

    @property
    def root_id(self) -> str:
        """The task id of the first task of this run's line: see `choreo.events.lineage`."""
        return self.event.lineage.root_id or self.id

    @cached_property
    def request(self) -> Any:
        """Celery's request for this run."""
        return self._child.request(self)


class ChildCommits(Commits):
    """
    The commits that a child sends ahead, until the end of its bundle.

    The worker holds the messages. So what is to become of a message whose commit did not ack it is noted here, and told
    in the answer.
    """

    def __init__(self, store: FusedStore, child: Child) -> None:
        super().__init__(store.new_wire(), lambda: self, lambda: child.left)
        #: Tags of commits that were answered, of messages that must be acked, and of those that go back to their queue:
        #: True if that counts as a failed delivery.
        self.heard: set[str] = set()
        self.left: set[str] = set()
        self.returned: dict[str, bool] = {}

    def ack(self, tag: str) -> None:
        """Note that the commit has not acked this message, and the worker must."""
        self.left.add(tag)

    def return_soon(self, tags: list[str], *, counted: bool = False) -> None:
        """Note that these messages go back to their queue."""
        self.returned.update(dict.fromkeys(tags, counted))

    def _finish(self, sent: Sent, answer: Any) -> None:
        super()._finish(sent, answer)
        if tag := getattr(sent, "tag", ""):
            self.heard.add(tag)

    def begin_bundle(self) -> None:
        """Forget the messages of the last bundle."""
        for known in (self.heard, self.left, self.returned, self._tags):
            known.clear()

    def recover(self) -> None:
        """Send everything that is not answered once more, over a new connection."""
        with self._lock:
            if self._pending or self._commands:
                self._send_again()


def _is_signal(error: BaseException | None) -> bool:
    """True if a signal has raised this error, or one that led to it."""
    while error is not None:
        if isinstance(error, SoftTimeLimitExceeded) or not isinstance(error, Exception):
            return True
        error = error.__cause__ or error.__context__
    return False


def _rejected(requeue: Any) -> Any:
    """Celery's outcome of a run whose message goes back to its queue."""
    try:
        raise Reject("its commit was refused", requeue=requeue)
    except Reject:
        return 1, ExceptionInfo(internal=True), 0.0


def _unwritable(error: Exception, value: Any) -> Any:
    try:
        raise RuntimeError(f"the failure {value!r:.200} cannot be sent to the worker: {error!r:.200}")
    except RuntimeError:
        return 1, ExceptionInfo(internal=True), 0.0


_known: Child | None = None


def _child() -> Child:
    global _known
    if _known is None or _known.pid != os.getpid():
        _known = Child(get_current_app())
    return _known
