"""
The shortcut: the shortest way from a taken message to its handler, in a worker of the solo pool.

Most deliveries are events that choreo has sent, that come for the first time, and whose runs nothing observes. Such a
delivery needs neither kombu's message nor Celery's request, and making those takes longer than everything else. So the
event is read from the text or the frames that were taken, handled, and acked. Celery's worker state, its worker events
and its current task are as always. The other facts about a run, which a program hardly ever reads, are made when it
reads them.

All other deliveries go the usual way from the moment at which they were taken: redeliveries, retries, events that
cannot be read, and revoked tasks. If a handler fails, Celery reports the failure, with the request that it would have
made.
"""

from time import time
from typing import Any

from celery.app.task import Context
from celery.worker import state

from choreo.broker.incoming import EventText
from choreo.broker.taken import Taken
from choreo.cached import cached_property
from choreo.events.ids import task_id
from choreo.fast.in_process import InProcess
from choreo.worker.worker_events import received_facts

#: Attributes that a `Run` has itself; it never looks for them in Celery's request.
_OWN = frozenset("id name request _way _channel _taken _event _received _is_untold".split())


class Run:
    """
    One run of a handler, in the place of Celery's request in Celery's worker state.

    It has the attributes that the worker reads at every run. All others come from the request that Celery would have
    made, which is made at the first such access: by `celery inspect`, for example.
    """

    def __init__(self, way: InProcess, channel: Any, taken: Taken, run_id: str, event: EventText) -> None:
        self.id, self.name = run_id, way.task.name
        self._way, self._channel, self._taken, self._event = way, channel, taken, event
        #: When it was received, which is also when it was started.
        self._received = time()
        self._is_untold = True

    @cached_property
    def request(self) -> Any:
        """Celery's request for this run."""
        message = self._channel.message_of(self._taken)
        self._way.queue.prepare(message)
        message = self._channel.message_to_python(message)
        request = self._way.request(message, message.ack_log_error, message.reject_log_error)
        self._way.accept(request, self._received)
        # The request may send worker events of its own now. The first ones of the run must come before.
        self._tell_beginning()
        return request

    def __getattr__(self, name: str) -> Any:
        if name in _OWN:  # `copy`, for one, asks an object that has none of them yet
            raise AttributeError(name)
        return getattr(self.request, name)

    def send_event(self, kind: str, **facts: Any) -> None:
        """
        Send a worker event about this run, as Celery's request does.

        Worker events are not sent while a handler runs in the worker's only thread. So those of a success (received,
        started, succeeded) are made together at its end, with their own times.
        """
        if kind == "task-succeeded" and self._may_tell():
            if self._way.events:
                self._way.events.send_run(self.id, self.name, *self._about, self._received, self._received, **facts)
        else:
            self._way.tell(kind, uuid=self.id, **facts)

    @property
    def root_id(self) -> str:
        """The task id of the first task of this run's line: see `choreo.events.lineage`."""
        return self._event.lineage.root_id or self.id

    @property
    def parent_id(self) -> str | None:
        """The task id of the task that announced the event; None if no task did."""
        return self._event.lineage.parent_id

    @property
    def _about(self) -> tuple[str, str, str | None]:
        """The event in words, and the ids of the root and the parent."""
        return str(self._event.envelope), self.root_id, self.parent_id

    def _may_tell(self) -> bool:
        """True for the first call only, also if threads that the handler started call it: nothing has been sent yet."""
        return bool(vars(self).pop("_is_untold", False))

    def _tell_beginning(self) -> None:
        if self._may_tell():
            facts = received_facts(self.name, *self._about)
            self._way.tell("task-received", timestamp=self._received, uuid=self.id, **facts)
            self._way.tell("task-started", timestamp=self._received, uuid=self.id)

    def acknowledge(self) -> None:
        """Ack the message, as Celery's request does."""
        self._channel.ack_taken(self._taken)

    def on_success(self, outcome: Any, **options: Any) -> Any:
        """
        Ack or reject the message after Celery's tracer has reported a failure. (A success never gets here.)

        Celery's request does that with a message that kombu has delivered, so kombu is told of it first.
        """
        self._channel.note_delivered(self.request.message)
        try:
            return self.request.on_success(outcome, **options)
        finally:
            state.task_ready(self)


class RunContext(Context):
    """Celery's ``task.request`` in a shortcut. Its fields are made when a program reads one of them, except its ids."""

    def __init__(self, run: Run, event: EventText) -> None:
        object.__getattribute__(self, "__dict__")["_about"] = run, event

    def __getattribute__(self, name: str) -> Any:
        facts = object.__getattribute__(self, "__dict__")
        about = facts.get("_about")
        if about is not None:
            run, event = about
            # Celery reads the id whenever a handler logs, and choreo reads both whenever it announces an event.
            if name == "id":
                return run.id
            if name == "root_id":
                return run.root_id
            # All at once: the handler may have handed this object to threads, which must not find it half made.
            facts.update(vars(Context(run.request.request_dict, args=[event], called_directly=False, kwargs={})))
            facts.pop("_about", None)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)  # makes the fields now, so that they cannot overwrite this value later
        super().__setattr__(name, value)


class Shortcut:
    """The shortcut to one handler. ``way`` runs it, and lives as long: until the worker connects anew."""

    def __init__(self, way: InProcess) -> None:
        self._way, self._task = way, way.task

    def __call__(self, channel: Any, taken: Taken) -> bool:
        """Fast path; returns True if it handled the message. False: nothing was done, and it goes the usual way."""
        if not self._way.is_clear:
            return False
        event = taken.event
        if event is None:
            return False
        if event.prepared is None:
            try:
                event.prepared = self._task.delivery_of(channel, taken, event)
            except Exception:  # the usual way meets the same error, and handles it
                return False
        run_id = task_id(event.envelope.occasion, self._task.name)
        if run_id in state.revoked:
            return False
        run = Run(self._way, channel, taken, run_id, event)
        _accept(run)
        self._way.run(run, RunContext(run, event), [event], {})
        return True


def _accept(run: Run) -> None:
    """Do what Celery's `task_reserved` and `task_accepted` do for a run that begins at once, in a third of the time."""
    state.requests[run.id] = run
    state.reserved_requests.add(run)
    state.active_requests.add(run)
    state.total_count[run.name] += 1
    state.all_total_count[0] += 1
