"""The context of a handler that runs in a span."""

from typing import ClassVar

from celery.signals import worker_process_shutdown
from opentelemetry import context as contexts
from opentelemetry import trace

from choreo.declare.context import Active, Context
from choreo.declare.delay import Delay
from choreo.delivery.failure import veiled
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.events.metadata import Meta
from choreo.events.redaction import hidden
from choreo.tracing import spans


class TracedContext(Context):
    """
    A context whose handler runs in a span of its own. Each event that it announces has a span too, and carries it.

    An event whose ``traceparent`` was given by hand keeps it.
    """

    __slots__ = ()
    #: The messaging system, as the conventions name it.
    system: ClassVar[str] = "choreo"

    def active(self) -> "InSpan":
        """Return a context manager inside which this context is the current one, in a span."""
        return InSpan(self)

    def _announce(
        self,
        event: Event,
        subject: str | None,
        delay: Delay | None,
        meta: Meta | None,
        cause: Envelope | None = None,
    ) -> Envelope:
        if meta and "traceparent" in meta:
            return Context._announce(self, event, subject, delay, meta, cause)
        # An event that no function of the user announces has no span around it: that a story is overdue.
        span = spans.publishing(self.system, [event.event_type], (cause or self.envelope).extensions)
        try:
            given = {**(meta or {}), **spans.carried(span)}
            envelope = Context._announce(self, event, subject, delay, given, cause)
            span.set_attributes(spans.about(envelope))
            return envelope
        except BaseException as error:
            spans.fail(span, error)
            raise
        finally:
            spans.end(span)


class InSpan(Active):
    """The context manager of `TracedContext.active`."""

    __slots__ = ("_before", "_span")
    _context: TracedContext

    def __enter__(self) -> None:
        Active.__enter__(self)
        self._span = spans.processing(self._context.system, self._context)
        self._before = contexts.attach(trace.set_span_in_context(self._span))

    def __exit__(self, *raised: object) -> None:
        contexts.detach(self._before)
        if isinstance(raised[1], BaseException):
            spans.fail(self._span, veiled(raised[1], hidden(self._context.events)))
        spans.end(self._span)
        Active.__exit__(self, *raised)


def contexts_on(system: str) -> type[TracedContext]:
    """The class of the contexts of a service on this messaging system. Made in the process that runs its handlers."""
    worker_process_shutdown.connect(spans.flush, weak=False, dispatch_uid="choreo.tracing")
    return type("TracedContext", (TracedContext,), {"__slots__": (), "system": system})
