"""
The spans of an event, by OpenTelemetry's conventions for messaging, and the way of their context in the event.

https://opentelemetry.io/docs/specs/semconv/messaging/messaging-spans/ (its status is "development"). The context
travels in the attributes of CloudEvents' distributed tracing extension, in W3C's form, whatever propagator the program
has set.

- ``publish order.placed``, a PRODUCER: the event was announced. Inside a handler it takes no time, since the event
  leaves when the handler has succeeded.
- ``process payment.charge_customer``, a CONSUMER: one attempt of a handler, middleware included. Its parent is the span
  that announced the event, which the conventions allow for single messages; so all of a story is one trace. A join is
  linked to the spans of all its parts. Its parent is that of the part that was announced last.

An error in OpenTelemetry, or in what the program has added to it (a sampler, a processor), costs spans and never an
event: it is logged, once per process.
"""

import logging
from collections.abc import Mapping, Sequence
from threading import Thread
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from choreo.declare.context import Context
from choreo.errors import RetryLater
from choreo.events.envelope import Envelope
from choreo.events.metadata import TRACE

#: Milliseconds for which the end of a process waits for its last export.
MOST_MS = 5000

#: The longest text of an attribute; a longer one is cut.
LONGEST = 512

logger = logging.getLogger(__name__)

#: A proxy, if the program sets up OpenTelemetry later.
_tracer = trace.get_tracer("choreo")
_w3c = TraceContextTextMapPropagator()


def publishing(system: str, types: Sequence[str], cause: Mapping[str, Any] | None = None) -> Span:
    """
    Begin the span of the announcement of events of these types, in the current span.

    ``cause`` are attributes that hold the parent if there is no current span.
    """
    kinds = set(types)
    where = next(iter(kinds)) if len(kinds) == 1 else "several types"
    attributes: dict[str, Any] = {
        "messaging.system": system,
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": where,
    }
    if len(types) > 1:
        attributes["messaging.batch.message_count"] = len(types)
    here = contexts.get_current()
    if cause and not trace.get_current_span(here).get_span_context().is_valid:
        here = context_in(cause)
    return _begun(f"publish {where}", here, SpanKind.PRODUCER, attributes)


def processing(system: str, context: Context) -> Span:
    """Begin the span of one attempt of a handler."""
    event, handler = context.envelope, context.handler
    attributes: dict[str, Any] = {
        "messaging.system": system,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        # Both: the handler's own queue, and the group of the workers that share it.
        "messaging.destination.name": handler,
        "messaging.consumer.group.name": handler,
        "choreo.attempt": context.attempt,
        "choreo.subject": _plain(context.subject),
        **about(event),
    }
    several = context.events if len(context.events) > 1 else ()
    links = [Link(made_in(part), {"messaging.message.id": part.id}) for part in several]
    return _begun(f"process {handler}", context_in(event.extensions), SpanKind.CONSUMER, attributes, links)


def _begun(name: str, parent: contexts.Context, kind: SpanKind, about: Mapping[str, Any], links: Any = ()) -> Span:
    try:
        return _tracer.start_span(name, parent, kind, about, links=links)
    except Exception as error:
        _log(error)
        return trace.INVALID_SPAN


def end(span: Span) -> None:
    """End a span."""
    try:
        span.end()
    except Exception as error:
        _log(error)


def _log(error: Exception) -> None:
    if not _logged:
        _logged.append(error)
        logger.error("OpenTelemetry fails, so spans are missing. Logged once per process.", exc_info=error)


#: The error that `_log` has logged, if there was one.
_logged: list[Exception] = []


def about(event: Envelope) -> dict[str, str]:
    """The attributes of a span that tell of its event."""
    return {
        "messaging.message.id": _plain(event.id),
        "messaging.message.conversation_id": _plain(event.correlation_id),
        "cloudevents.event_id": _plain(event.id),
        "cloudevents.event_source": _plain(event.source),
        "cloudevents.event_type": _plain(event.type),
        "cloudevents.event_subject": _plain(event.subject),
    }


def _plain(text: str) -> str:
    """A text that can be exported. Half a surrogate pair would cost all spans that are exported together with it."""
    text = text[:LONGEST]
    return text if text.isascii() else text.encode(errors="replace").decode()


def fail(span: Span, error: BaseException) -> None:
    """Note in a span that it ended with this error. An attempt that asks to be made later has not failed."""
    try:
        span.record_exception(error)
        if not isinstance(error, RetryLater):
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
    except Exception as fault:  # for one, the error's own __str__
        _log(fault)


def carried(span: Span) -> dict[str, str]:
    """The attributes of an event that was announced in this span. Empty if there is no trace."""
    attributes: dict[str, str] = {}
    _w3c.inject(attributes, trace.set_span_in_context(span, contexts.Context()))
    return attributes


def context_in(attributes: Mapping[str, Any]) -> contexts.Context:
    """The context that these attributes of an event carry. If they carry none, the current one."""
    if "traceparent" not in attributes:
        return contexts.get_current()
    carrier = {name: str(attributes[name]) for name in TRACE if name in attributes}
    return _w3c.extract(carrier, contexts.Context())


def made_in(event: Envelope) -> trace.SpanContext:
    """The span in which an event was announced; an invalid one if it carries none."""
    if "traceparent" not in event.extensions:
        return trace.INVALID_SPAN_CONTEXT
    return trace.get_current_span(context_in(event.extensions)).get_span_context()


def flush(**_: object) -> None:
    """
    Export what waits to be exported. Called when a process of the prefork pool ends, which runs no exit handlers.

    It takes `MOST_MS` at most: the worker waits for its processes.
    """
    force_flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if force_flush is not None:
        # In a thread: with a collector that does not answer, OpenTelemetry exceeds the time that it is given.
        thread = Thread(target=force_flush, args=(MOST_MS,), name="choreo-spans", daemon=True)
        thread.start()
        thread.join(MOST_MS / 1000)
