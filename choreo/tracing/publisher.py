"""A publisher that records a span for what it announces."""

from asyncio import CancelledError
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from opentelemetry import trace

from choreo.broker.publisher import Publisher
from choreo.events.envelope import Envelope
from choreo.tracing import spans


class TracedPublisher(Publisher):
    """
    Announces events in a span. The events carry it, unless they carry one already.

    Events that are announced together have one span.
    """

    #: The messaging system, as the conventions name it. Set by whoever makes the publisher.
    system = "choreo"

    def announce(self, envelopes: Iterable[Envelope]) -> list[Envelope]:
        """Broadcast events, as `Publisher.announce` does. Returns them as they were sent."""
        with self._in_span(envelopes) as carrying:
            return super().announce(carrying)

    async def aannounce(self, envelopes: Iterable[Envelope]) -> list[Envelope]:
        """Broadcast events, as `Publisher.aannounce` does. Returns them as they were sent."""
        with self._in_span(envelopes) as carrying:
            return await super().aannounce(carrying)

    @contextmanager
    def _in_span(self, envelopes: Iterable[Envelope]) -> Iterator[list[Envelope]]:
        """Gives the events as they are to be sent, in a span around the block."""
        envelopes = list(envelopes)
        if not envelopes:
            yield envelopes
            return
        span = self._span_of(envelopes)
        try:
            with trace.use_span(span, record_exception=False, set_status_on_exception=False):
                yield _carrying(envelopes, spans.carried(span))
        except (Exception, CancelledError) as error:
            spans.fail(span, error)
            raise
        finally:
            spans.end(span)

    def stamped(self, envelope: Envelope) -> Envelope:
        """The event as it is sent later: with the span that it was announced in."""
        span = self._span_of([envelope])
        spans.end(span)
        return _carrying([envelope], spans.carried(span))[0]

    def _span_of(self, envelopes: list[Envelope]) -> trace.Span:
        span = spans.publishing(self.system, [envelope.type for envelope in envelopes], envelopes[0].extensions)
        if len(envelopes) == 1:
            span.set_attributes(spans.about(envelopes[0]))
        return span


def _carrying(envelopes: list[Envelope], trace_of_it: Mapping[str, Any]) -> list[Envelope]:
    return [
        envelope
        if "traceparent" in envelope.extensions
        else replace(envelope, extensions=envelope.extensions | dict(trace_of_it))
        for envelope in envelopes
    ]
