"""
The shortest way from a message to its handler: from choreo's Redis transport, in a worker of the solo pool.

Most deliveries are events as choreo sends them, which come for the first time, and which nobody but their handler wants
anything of. From kombu's message and Celery's request such a one needs nothing, and to make them takes longer than all
the rest. So the event is read from the text that was taken, handled, and acked. Celery's worker state, its events and
its current task are what they always are. What may be asked about a run is made when somebody asks.

Whatever is not so plain goes the usual way, from where it was taken: what came before, is tried again, cannot be read,
was revoked. A handler that fails has its failure reported by Celery, with the request that it would have had.
"""

from functools import cached_property
from time import time
from typing import Any

from celery.app.task import Context
from celery.worker import state

from choreo.broker.incoming import EventText
from choreo.broker.redis.taken import Taken
from choreo.events.envelope import Envelope
from choreo.events.ids import task_id
from choreo.fast.channel import commits_of
from choreo.fast.in_process import InProcess
from choreo.worker.worker_events import received_facts

#: What a `Run` itself must have.
_OWN = frozenset("id name request _way _channel _taken _envelope _received _started _is_untold".split())


class Run:
    """
    A run of a handler as Celery's worker state keeps it.

    It knows what that asks of every run. For whoever looks closer it is the request that Celery would have made.
    """

    def __init__(self, way: InProcess, channel: Any, taken: Taken, unit: str, envelope: Envelope) -> None:
        self.id, self.name = unit, way.task.name
        self._way, self._channel, self._taken, self._envelope = way, channel, taken, envelope
        self._received = time()
        self._started = 0.0
        self._is_untold = True

    @cached_property
    def request(self) -> Any:
        """Celery's own."""
        message = self._channel.message_of(self._taken)
        self._way.queue.prepare(message)
        request = self._way.request(message, message.ack_log_error, message.reject_log_error)
        self._way.accept(request, self._received)
        # Whoever has looked closer may tell more of it, and that comes after this.
        self._tell_beginning()
        return request

    def __getattr__(self, name: str) -> Any:
        if name in _OWN:  # a copy that is being made, for one, has none of them yet
            raise AttributeError(name)
        return getattr(self.request, name)

    def send_event(self, kind: str, **facts: Any) -> None:
        """
        As Celery's request does.

        What is told while a handler runs in its worker's only thread is sent when it has ended. So it is told then, in
        one go.
        """
        if kind == "task-started":
            self._started = time()
        elif kind == "task-succeeded" and self._may_tell():
            if self._way.events:
                self._way.events.send_run(self.id, self.name, *self._about, self._received, self._started, **facts)
        else:
            self._way.tell(kind, uuid=self.id, **facts)

    @property
    def _about(self) -> tuple[str, str, str]:
        """The event, and its relations."""
        return str(self._envelope), self._envelope.correlation_id, self._envelope.id

    def _may_tell(self) -> bool:
        """Whether nobody has told yet that it began. True once, also among threads that a handler has started."""
        return bool(vars(self).pop("_is_untold", False))

    def _tell_beginning(self) -> None:
        if self._may_tell():
            facts = received_facts(self.name, *self._about)
            self._way.tell("task-received", timestamp=self._received, uuid=self.id, **facts)
            self._way.tell("task-started", timestamp=self._started, uuid=self.id)

    def acknowledge(self) -> None:
        """Ack what was taken, as kombu's QoS does."""
        self._channel.ack_later(self._taken.tag, urgent=not self._taken.claim)

    def on_success(self, outcome: Any, **options: Any) -> Any:
        """
        Settle what Celery's tracer has reported: here, always a failure.

        Celery acks or rejects the message then, so its consumer must hold it.
        """
        message = self.request.message
        self._channel.qos.append(message, message.delivery_tag)
        try:
            return self.request.on_success(outcome, **options)
        finally:
            state.task_ready(self)


class RunContext(Context):
    """What a handler finds as Celery's ``task.request``, made when it looks there."""

    def __init__(self, run: Run, event: EventText) -> None:
        object.__getattribute__(self, "__dict__")["_about"] = run, event

    def __getattribute__(self, name: str) -> Any:
        facts = object.__getattribute__(self, "__dict__")
        about = facts.get("_about")
        if about is not None:
            run, event = about
            if name == "id":  # of which Celery asks whenever a handler logs
                return run.id
            # Nobody finds it half made: the handler may have handed it to threads.
            facts.update(vars(Context(run.request.request_dict, args=[event], called_directly=False, kwargs={})))
            facts.pop("_about", None)
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        vars(self)  # what is set must not be overwritten later
        super().__setattr__(name, value)


class Shortcut:
    """Handles deliveries of one handler. ``way`` is what is done with those that it leaves."""

    def __init__(self, way: InProcess) -> None:
        self._way, self._task = way, way.task

    def __call__(self, channel: Any, taken: Taken) -> bool:
        """Handle what a channel has taken. False if it has to go the usual way: nothing was done then."""
        if not self._way.is_clear:
            return False
        event = taken.event
        if event is None:
            return False
        if event.note is None:
            try:
                receipt, commits = channel.receipt_of(taken), commits_of(channel)
                event.note = self._task.held_delivery(event.envelope, 1, receipt, commits)
            except Exception:  # whatever it is, it comes up again where it can be dealt with
                return False
        unit = task_id(event.envelope.id, self._task.name)
        if unit in state.revoked:
            return False
        self._handle(event, Run(self._way, channel, taken, unit, event.envelope))
        return True

    def _handle(self, event: EventText, run: Run) -> None:
        state.task_reserved(run)
        self._way.run(run, RunContext(run, event), [event], {})
