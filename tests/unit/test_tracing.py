"""Spans of OpenTelemetry, recorded by the real SDK in this process."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from choreo import Context, DeadLetter, Envelope, PermanentFailure, PublishError, RetryLater, Service, runtime
from choreo.broker.publisher import Publisher
from choreo.declare.context import context_of
from choreo.errors import DeclarationError
from choreo.testing.publisher import MemoryPublisher
from choreo.tracing import spans as making
from choreo.tracing.context import TracedContext, contexts_on
from choreo.tracing.publisher import TracedPublisher
from tests.unit.events import NOON, DriverAssigned, OrderConfirmed, OrderPlaced, OrderRejected, PaymentCharged
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice")
TRACE_ID, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACE = f"00-{TRACE_ID}-{CALLER}-01"


class MemoryTracedPublisher(TracedPublisher, MemoryPublisher):
    """Records spans, and hands messages to a stage."""


class Spans:
    """The spans that a test has recorded."""

    def __init__(self, exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
        self._exporter, self.tracer = exporter, provider.get_tracer("test")

    def __getitem__(self, name: str) -> ReadableSpan:
        """The only span of this name."""
        (span,) = [span for span in self.all if span.name == name]
        return span

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.all]


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """The provider of a process can be set only once, so it is not touched."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(making, "_tracer", provider.get_tracer("choreo"))
    return Spans(exporter, provider)


@pytest.fixture
def app() -> Service:
    return service("payment")


@pytest.fixture
def platform(app: Service) -> Iterator[Stage]:
    platform = Stage(app)
    app.runtime.contexts = contexts_on("memory")
    publisher = app.runtime.publisher = MemoryTracedPublisher(platform._take)
    publisher.system = "memory"
    yield platform
    platform.__exit__(None, None, None)


def id_of(span: ReadableSpan) -> str:
    return trace.format_span_id(span.context.span_id)


def parent_of(span: ReadableSpan) -> str:
    return "" if span.parent is None else trace.format_span_id(span.parent.span_id)


# -- publishing -------------------------------------------------------------------------------------------------


def test_an_event_carries_the_span_that_announced_it_below_the_current_one(app, platform, spans):
    with spans.tracer.start_as_current_span("POST /orders") as request:
        placed = app.publish(ORDER, "ORD-1", meta={"tenant": "acme"})

    span = spans["publish order.placed"]
    assert span.kind is SpanKind.PRODUCER
    assert span.parent == request.get_span_context()
    trace_id = trace.format_trace_id(span.context.trace_id)
    assert placed.extensions.keys() == {"tenant", "traceparent"}
    assert placed.extensions["traceparent"].startswith(f"00-{trace_id}-{id_of(span)}-")
    assert platform.events == [placed]
    assert dict(span.attributes) == {
        "messaging.system": "memory",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "order.placed",
        "messaging.message.id": placed.id,
        "messaging.message.conversation_id": placed.id,
        "cloudevents.event_id": placed.id,
        "cloudevents.event_source": "payment",
        "cloudevents.event_type": "order.placed",
        "cloudevents.event_subject": "ORD-1",
    }


def test_coroutines_that_announce_together_have_their_own_spans(app, platform, spans):
    async def place(name: str) -> Envelope:
        with spans.tracer.start_as_current_span(name):
            await asyncio.sleep(0)
            return await app.apublish(ORDER, "ORD-1")

    async def both() -> list[Envelope]:
        return await asyncio.gather(place("GET /a"), place("GET /b"))

    for name, event in zip(("GET /a", "GET /b"), asyncio.run(both()), strict=True):
        (span,) = [one for one in spans.all if id_of(one) in event.extensions["traceparent"]]
        assert parent_of(span) == id_of(spans[name])


def test_a_coroutine_that_cannot_announce_ends_its_span_with_the_error(app, platform, spans):
    app.runtime.publisher.fails = PublishError("no connection")

    with pytest.raises(PublishError):
        asyncio.run(app.apublish(ORDER))

    assert spans["publish order.placed"].status.status_code is StatusCode.ERROR


def test_a_delayed_event_carries_the_span_of_its_announcement(app, platform, spans):
    later = app.publish(ORDER, delay=60)

    assert id_of(spans["publish order.placed"]) in later.envelope.extensions["traceparent"]
    platform.advance(seconds=61)
    assert platform.events == [later.envelope]


def test_events_that_are_announced_together_have_one_span(app, platform, spans):
    app.publish_many([ORDER] * 3)
    app.publish_many([ORDER, OrderConfirmed()])

    alike, mixed = spans.all
    assert [span.name for span in spans.all] == ["publish order.placed", "publish several types"]
    assert [span.attributes["messaging.batch.message_count"] for span in spans.all] == [3, 2]
    carried = [event.extensions["traceparent"].split("-")[2] for event in platform.events]
    assert carried == [id_of(alike)] * 3 + [id_of(mixed)] * 2


def test_a_trace_that_was_given_by_hand_is_the_parent_and_stays(app, platform, spans):
    placed = app.publish(ORDER, meta={"traceparent": TRACE})

    assert placed.extensions == {"traceparent": TRACE}
    assert parent_of(spans["publish order.placed"]) == CALLER


def test_an_event_that_is_announced_again_is_the_same_event(app, platform, spans):
    placed = app.publish(ORDER)
    app.publisher.announce([placed])

    assert platform.events == [placed, placed]


def test_a_failed_announcement_is_a_failed_span(app, platform, spans):
    app.publisher.fails = PublishError("no broker")

    with pytest.raises(PublishError):
        app.publish(ORDER)

    assert spans["publish order.placed"].status.status_code is StatusCode.ERROR
    assert not trace.get_current_span().get_span_context().is_valid


# -- handling ---------------------------------------------------------------------------------------------------


def test_a_handler_and_the_events_that_it_announces_are_in_the_trace_of_their_event(app, platform, spans):
    seen: list[bool] = []

    @app.around
    def look(context, proceed):
        seen.append(trace.get_current_span().is_recording())
        proceed()

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged()

    app.publish(ORDER, "ORD-1", meta={"traceparent": TRACE, "tracestate": "a=1"})
    platform.run()

    handled, published = spans["process payment.charge"], spans["publish payment.charged"]
    assert seen == [True]
    assert (handled.kind, published.kind) == (SpanKind.CONSUMER, SpanKind.PRODUCER)
    assert (parent_of(handled), parent_of(published)) == (CALLER, id_of(handled))
    assert {trace.format_trace_id(span.context.trace_id) for span in spans.all} == {TRACE_ID}
    [charged] = platform.announced(PaymentCharged)
    carried = {"traceparent": f"00-{TRACE_ID}-{id_of(published)}-01", "tracestate": "a=1"}
    assert charged.meta.extensions == carried
    assert handled.attributes["messaging.consumer.group.name"] == "payment.charge"
    assert handled.attributes["choreo.subject"] == "ORD-1"
    assert handled.links == ()
    assert not trace.get_current_span().get_span_context().is_valid, "it is over"


def test_each_attempt_has_a_span_and_one_that_asks_for_another_has_not_failed(app, platform, spans):
    raises = [RetryLater(1, "closed"), ValueError("no such account"), None]

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        if error := raises.pop(0):
            raise error

    app.publish(ORDER, meta={"traceparent": TRACE})
    platform.advance(hours=1)

    attempts = [span for span in spans.all if span.name == "process payment.charge"]
    assert [span.attributes["choreo.attempt"] for span in attempts] == [1, 2, 3]
    assert [span.status.status_code.name for span in attempts] == ["UNSET", "ERROR", "UNSET"]
    assert [span.attributes.get("error.type") for span in attempts] == [None, "ValueError", None]
    assert [[event.name for event in span.events] for span in attempts] == [["exception"], ["exception"], []]
    assert {parent_of(span) for span in attempts} == {CALLER}


def test_a_join_is_linked_to_its_parts_and_below_the_last_one(app, platform, spans):
    @app.join(OrderConfirmed, PaymentCharged)
    def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    charged = app.publish(PaymentCharged(), "ORD-1")
    platform.advance(seconds=1)
    confirmed = app.publish(OrderConfirmed(), "ORD-1")
    platform.run()

    joined = spans["process payment.assign"]
    made = [id_of(spans[f"publish {event.type}"]) for event in (confirmed, charged)]
    assert [trace.format_span_id(link.context.span_id) for link in joined.links] == made
    assert [link.attributes["messaging.message.id"] for link in joined.links] == [confirmed.id, charged.id]
    assert parent_of(joined) == made[0]
    assert joined.attributes["messaging.message.id"] == confirmed.id
    assert parent_of(spans["publish driver.assigned"]) == id_of(joined)


def test_the_function_for_dead_letters_is_in_the_trace_of_the_event(app, platform, spans):
    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        raise PermanentFailure("frozen")

    @app.dead_letter
    def tell(letter: DeadLetter) -> OrderRejected:
        return OrderRejected()

    app.publish(ORDER, meta={"traceparent": TRACE})
    platform.run()

    told = spans["process payment.dead_letters"]
    assert parent_of(told) == CALLER
    assert parent_of(spans["publish order.rejected"]) == id_of(told)


def test_that_a_story_is_overdue_is_in_the_trace_of_its_event(app, platform, spans):
    app.story("delivery", begins=OrderPlaced, ends=DriverAssigned, within=timedelta(minutes=45))

    app.publish(ORDER, "ORD-1", meta={"traceparent": TRACE, "tenant": "acme"})
    platform.advance(minutes=46)

    assert parent_of(spans["publish story.overdue"]) == CALLER
    [overdue] = [event for event in platform.events if event.type == "story.overdue"]
    assert overdue.extensions["tenant"] == "acme"


def test_an_event_that_cannot_be_announced_is_a_failed_span(app, platform, spans):
    @app.on(OrderPlaced)
    def charge(order: OrderPlaced):
        app.publish(PaymentCharged(), subject=7)

    app.publish(ORDER)
    platform.run()

    assert spans["publish payment.charged"].status.status_code is StatusCode.ERROR
    assert spans["process payment.charge"].attributes["error.type"] == "InvalidEventError"


def test_a_trace_that_a_handler_gives_by_hand_stays(app, platform, spans):
    @app.on(OrderPlaced)
    def charge(order: OrderPlaced):
        app.publish(PaymentCharged(), meta={"traceparent": TRACE})

    app.publish(ORDER)
    platform.run()

    [charged] = platform.announced(PaymentCharged)
    assert charged.meta.extensions == {"traceparent": TRACE}


def test_without_a_sdk_a_trace_is_handed_on_all_the_same(app, platform):
    @app.on(OrderPlaced)
    def charge(order: Envelope, context: Context) -> PaymentCharged:
        assert isinstance(context, TracedContext)
        return PaymentCharged()

    app.publish(ORDER, meta={"traceparent": TRACE, "tracestate": "a=1"})
    platform.run()

    [charged] = platform.announced(PaymentCharged)
    assert charged.meta.extensions == {"traceparent": TRACE, "tracestate": "a=1"}


def test_an_event_with_as_much_metadata_as_can_be_given_carries_its_trace_too(app, platform, spans):
    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged()

    meta = {f"name{number}": number for number in range(16)}
    app.publish(ORDER, meta=meta)
    platform.run()

    [charged] = platform.announced(PaymentCharged)
    assert charged.meta.extensions.items() > meta.items()
    assert "traceparent" in charged.meta.extensions


# -- the switch -------------------------------------------------------------------------------------------------


def test_a_program_without_a_provider_is_not_traced(app):
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider), "no test sets that of this process"

    assert type(app.runtime.publisher) is Publisher
    assert app.runtime.contexts is context_of


def test_a_program_that_has_set_one_before_its_first_event_is(app, monkeypatch):
    monkeypatch.setattr(trace, "get_tracer_provider", TracerProvider)

    assert type(app.runtime.publisher) is TracedPublisher
    assert issubclass(app.runtime.contexts, TracedContext)
    assert app.runtime.contexts.system == app.runtime.publisher.system == "memory"


def test_a_program_without_opentelemetry_is_not_traced(app, monkeypatch):
    monkeypatch.delitem(sys.modules, "opentelemetry.trace")

    assert app.runtime.contexts is context_of
    assert "opentelemetry.trace" not in sys.modules, "nobody has imported it"


def test_it_can_be_turned_off(app, monkeypatch):
    monkeypatch.setattr(trace, "get_tracer_provider", TracerProvider)
    app.conf.choreo_tracing = False

    assert type(app.runtime.publisher) is Publisher
    assert app.runtime.contexts is context_of


def test_it_can_be_turned_on_for_a_provider_that_is_set_later(app):
    app.conf.choreo_tracing = True

    assert type(app.runtime.publisher) is TracedPublisher
    assert issubclass(app.runtime.contexts, TracedContext)


def test_turning_it_on_where_it_is_not_installed_is_an_error(app, monkeypatch):
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    app.conf.choreo_tracing = True

    with pytest.raises(DeclarationError, match=r"pip install 'celery-choreo\[otel\]'"):
        app.runtime.contexts  # noqa: B018


def test_another_value_of_the_setting_is_refused():
    app = Service("payment", config={"choreo_tracing": "yes"}, broker="memory://", set_as_current=False)

    with pytest.raises(DeclarationError, match="choreo_tracing = 'yes': it takes True or False"):
        app.conf.choreo_tracing  # noqa: B018


@pytest.mark.parametrize(("url", "system"), [("amqp://h//", "rabbitmq"), ("redis://h/0", "redis")])
def test_the_system_is_named_as_the_conventions_name_it(url, system):
    app = Service("payment", config={"choreo_tracing": True}, broker=url, set_as_current=False)

    assert app.runtime.contexts.system == system


class Broken(SpanProcessor):
    """Fails at each span."""

    def on_start(self, span: object, parent_context: object = None) -> None:  # noqa: ARG002
        raise OSError("no collector")

    def on_end(self, span: object) -> None:  # noqa: ARG002
        raise OSError("no collector")


class BrokenAtTheEnd(Broken):
    def on_start(self, span: object, parent_context: object = None) -> None: ...


class UnsayableError(Exception):
    def __str__(self) -> str:
        raise OSError("no words")


@pytest.mark.parametrize("processor", [Broken, BrokenAtTheEnd])
def test_a_broken_processor_costs_spans_and_no_event(monkeypatch, caplog, processor) -> None:
    provider = TracerProvider()
    provider.add_span_processor(processor())
    monkeypatch.setattr(making, "_tracer", provider.get_tracer("choreo"))
    monkeypatch.setattr(making, "_logged", [])
    app = service("payment")
    app.runtime.contexts = contexts_on("redis")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        return PaymentCharged()

    stage, sent = Stage(app), MemoryTracedPublisher(lambda messages: [True] * len(messages))
    (event,) = sent.announce([ORDER.sealed(id="1", source="shop", subject="", cause=None, time=NOON)])
    stage.deliver(event)

    assert [one.type for one in stage.events] == ["payment.charged"]
    assert len([record for record in caplog.records if record.name == making.logger.name]) == 1


def test_an_error_without_words_is_the_error_of_the_handler(spans: Spans, monkeypatch) -> None:
    monkeypatch.setattr(making, "_logged", [])
    span = spans.tracer.start_span("process")

    making.fail(span, UnsayableError())
    making.end(span)

    assert spans.names == ["process"]


def test_a_hostile_subject_is_cut_and_can_be_exported() -> None:
    event = ORDER.sealed(id="1", source="shop", subject="\ud800" + "x" * 100_000, cause=None, time=NOON)

    assert making.about(event)["cloudevents.event_subject"] == "?" + "x" * (making.LONGEST - 1)


def test_the_end_of_a_process_does_not_wait_for_a_collector_that_does_not_answer(monkeypatch) -> None:
    answered = threading.Event()
    provider = SimpleNamespace(force_flush=lambda _: answered.wait(60))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(making, "MOST_MS", 10)

    making.flush()

    assert not answered.is_set()
    answered.set()
