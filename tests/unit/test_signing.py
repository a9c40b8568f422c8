"""Signed events: who may announce what, and what a handler runs."""

import json
import logging
from dataclasses import replace
from datetime import timedelta

import pytest

from choreo import (
    Breaker,
    DeclarationError,
    Envelope,
    EnvelopeError,
    InvalidEventError,
    PermanentFailure,
    PublishError,
    Reason,
    Retry,
    RetryLater,
    Service,
)
from choreo.broker.lines import Post
from choreo.errors import UntrustedError
from choreo.events.envelope import NEW_KEY
from choreo.events.message import EVENT_TASK, Message, compact, parsed
from choreo.events.signing import SEAL, SIGNATURE, Signing, canonical
from choreo.store.parts import addressed, demanded
from choreo.testing.runtime import StageRuntime
from tests.unit.events import DriverAssigned, OrderConfirmed, OrderPlaced, OrderRejected, PaymentCharged, envelope
from tests.unit.stage import Stage, service

OLD, NEW = b"the key of last year", b"the key of this year"
SIGNING = Signing({"2026": NEW, "2025": OLD})
ACCEPTING = replace(SIGNING, is_required=False)
QUEUE = "payment.charge"
EVENT = envelope(OrderPlaced(customer_id="alice", total_cents=5), extensions={"tenant": "acme", "n": 1})


def travelled(event: Envelope) -> Envelope:
    """The event as its receiver reads it."""
    return Envelope.from_wire(json.loads(json.dumps(event.to_wire())))


# -- settings ------------------------------------------------------------------------------------------------------


def test_keys_that_a_program_sets_after_its_configuration_was_read_count():
    app = service("payment")
    assert app.conf.get("choreo_signing_keys") is None
    assert app.runtime.signing is None
    publisher = app.publisher

    app.conf.choreo_signing_keys = {"2026": NEW.decode()}
    app.runtime.check()  # a worker calls this when it starts

    assert app.runtime.signing == Signing({"2026": NEW})
    assert publisher.signing == Signing({"2026": NEW})


# -- signatures ----------------------------------------------------------------------------------------------------


def test_a_signed_event_is_taken_as_it_is():
    signed = travelled(SIGNING.signed(EVENT))

    assert SIGNING.checked(signed, QUEUE) == signed
    assert (signed.data, signed.extensions["tenant"]) == (EVENT.data, "acme")
    assert signed.extensions[SIGNATURE].startswith("2026:")


@pytest.mark.parametrize(
    "change",
    [
        {"id": "e-2"},
        {"type": "order.cancelled"},
        {"source": "other"},
        {"subject": "ORD-2"},
        {"time": EVENT.time + timedelta(seconds=1)},
        {"correlation_id": "story-2"},
        {"causation_id": "e-0"},
        {"version": 2},
        {"data": {"customer_id": "alice", "total_cents": 6}},
        {"extensions": {"tenant": "evil", "n": 1}},
        {"extensions": {"tenant": "acme", "n": 1, "added": "x"}},
        {"extensions": {"tenant": "acme", "n": 1, "choreoreadableby": "1"}},
        {"extensions": {"tenant": "acme", "n": 1, "choreoalert": "payment.charge"}},  # it would silence an alert
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_is_changed_breaks_the_signature(change):
    signed = SIGNING.signed(EVENT)
    if "extensions" in change:
        change = {"extensions": change["extensions"] | {SIGNATURE: signed.extensions[SIGNATURE]}}

    for signing in (SIGNING, ACCEPTING):
        with pytest.raises(UntrustedError, match="somebody without the key has made it or changed it"):
            signing.checked(travelled(replace(signed, **change)), QUEUE)


@pytest.mark.parametrize(
    "data", [{"x": 1.0, "y": 1e300, "z": -0.0}, {"ä": "\u2028€", "b": [None, True, {"a": {}}]}, {}]
)
def test_the_data_may_be_any_json(data):
    signed = SIGNING.signed(replace(EVENT, data=data))
    body = Message.carrying(signed, exchange="e", routing_key="k").body

    assert SIGNING.checked(Envelope.from_wire(parsed(body)[0][0]), QUEUE).data == data


def test_hops_and_the_mark_of_a_replay_are_not_signed():
    signed = SIGNING.signed(EVENT)

    SIGNING.checked(replace(signed, hops=7).replayed("letter"), QUEUE)


def test_the_first_key_signs_and_all_of_them_verify():
    before, after = Signing({"2025": OLD}), Signing({"2026": NEW})

    SIGNING.checked(before.signed(EVENT), QUEUE)
    SIGNING.checked(after.signed(EVENT), QUEUE)
    with pytest.raises(UntrustedError, match="there is no key '2025' in choreo_signing_keys"):
        after.checked(before.signed(EVENT), QUEUE)


@pytest.mark.parametrize("signature", [1, "", ":", "2026", "2026:", "2026:äöü", "2026:" + "0" * 64, None, ["2026"]])
def test_a_signature_of_any_kind_is_no_proof(signature):
    with pytest.raises(UntrustedError):
        SIGNING.checked(replace(EVENT, extensions={SIGNATURE: signature}), QUEUE)


def test_an_unsigned_event_is_refused_or_accepted_with_one_warning(caplog):
    with pytest.raises(UntrustedError, match=r"order\.placed ORD-1 from 'order' is not signed"):
        SIGNING.checked(EVENT, QUEUE)

    accepting = replace(SIGNING, is_required=False)
    assert [accepting.checked(EVENT, QUEUE) for _ in range(3)] == [EVENT] * 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "is not signed, and is accepted (choreo_signing = 'accept')" in caplog.text


def test_the_form_that_is_signed_is_the_documented_one():
    assert canonical(replace(EVENT, data={"b": 1, "a": "é"}, extensions={"n": 1, "choreoother": "x"})) == (
        b'["choreo-event-1","e-1","order.placed","order","ORD-1","2026-01-01T12:00:00+00:00","story-1",null,1,'
        b'{"a":"\\u00e9","b":1},{"n":1}]'
    )


# -- seals ---------------------------------------------------------------------------------------------------------


def sealed(event: Envelope, queue: str = QUEUE, signing: Signing = SIGNING) -> Envelope:
    message = signing.sealed(Message.carrying(event, exchange="", routing_key=queue))
    return Envelope.from_wire(parsed(message.body)[0][0])


@pytest.mark.parametrize(
    "private",
    [
        replace(EVENT, extensions={NEW_KEY: "again"}),
        addressed(EVENT, "ORD-2"),
        demanded(EVENT, envelope(OrderRejected(), id="r-1")),
        replace(EVENT, type="choreo.join_fired"),
    ],
    ids=["rerun", "key of a join", "demand to undo", "signal"],
)
def test_what_tells_one_handler_more_than_the_event_needs_a_seal(private):
    with pytest.raises(UntrustedError, match="is for this handler alone, and has no seal"):
        SIGNING.checked(SIGNING.signed(private), QUEUE)

    assert SIGNING.checked(sealed(SIGNING.signed(private)), QUEUE) == SIGNING.signed(private)
    with pytest.raises(UntrustedError, match=r"the seal of .* does not fit"):
        SIGNING.checked(sealed(private, "payment.other"), QUEUE)
    with pytest.raises(UntrustedError, match=r"the seal of .* does not fit"):
        SIGNING.checked(replace(sealed(private), subject="ORD-9"), QUEUE)


def test_only_an_event_for_a_single_queue_is_sealed():
    broadcast = Message.carrying(EVENT, exchange="choreo.events", routing_key="order.placed")
    notice = Message("", "payment.dead_letters", b'[["l-1"],{},{}]', {"task": "payment.dead_letters"})
    broken = Message("", QUEUE, b"x", {"task": "choreo.event"})

    assert [SIGNING.sealed(one) for one in (broadcast, notice, broken)] == [broadcast, notice, broken]


@pytest.mark.parametrize(
    "body",
    [
        b"[[" + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"],{},{}]",
        json.dumps([[EVENT.to_wire() | {"data": {"a": "\ud800"}}], {}, {}]).encode(),
        b'[["no event"],{},{}]',
    ],
    ids=["too deep", "half a surrogate pair", "no event"],
)
def test_what_cannot_be_sealed_is_sent_as_it_is_and_does_not_stop_the_clock(body):
    replayed = Message("", QUEUE, body, {"task": EVENT_TASK})

    assert SIGNING.sealed(replayed) is replayed


def test_a_seal_is_made_anew_and_read_by_the_fast_path():
    message = SIGNING.sealed(Message.carrying(sealed(EVENT, "payment.other"), exchange="", routing_key=QUEUE))

    assert message.body.startswith(b'[[{"specversion":')
    assert message.body == compact(json.loads(message.body)).encode()
    assert SEAL not in SIGNING.checked(Envelope.from_wire(parsed(message.body)[0][0]), QUEUE).extensions


# -- publishers ----------------------------------------------------------------------------------------------------


def test_a_publisher_announces_what_it_may():
    signing = Signing(
        {"k": NEW}, publishers={"order": ("order.*",), "payment": ("payment.charged", "payment.refunded")}
    )
    charged = envelope(PaymentCharged(), source="payment")

    signing.checked(Signing({"k": NEW}).signed(charged), QUEUE)
    for stranger in (replace(charged, source="order"), replace(charged, source="stranger")):
        with pytest.raises(UntrustedError, match=r"may not announce payment\.charged"):
            signing.checked(Signing({"k": NEW}).signed(stranger), QUEUE)
        with pytest.raises(InvalidEventError, match=r"may not announce payment\.charged: choreo_publishers"):
            signing.signed(stranger)
    alert = replace(charged, type="dead_letter.recorded", source="stranger")
    signing.checked(signing.signed(alert), QUEUE)  # one that announces nothing


# -- settings ------------------------------------------------------------------------------------------------------


def conf(**settings) -> Signing | None:
    return service(**{f"choreo_{name}": value for name, value in settings.items()}).runtime.signing


def test_without_a_key_nothing_is_signed():
    assert conf() is conf(signing_keys={}) is conf(signing_keys=None) is None


def test_the_settings_say_what_is_signed_and_who_is_trusted():
    keys = {"2026-11": "k" * 32, "2026-05": b"k" * 16}

    assert conf(signing_keys=keys) == Signing({"2026-11": b"k" * 32, "2026-05": b"k" * 16}, is_required=True)
    accepting = conf(signing_keys=keys, signing="accept", publishers=["order", "payment"])
    assert accepting is not None
    assert (accepting.is_required, accepting.publishers) == (False, {"order": ("#",), "payment": ("#",)})
    scoped = conf(signing_keys=keys, publishers={"order": "order.*", "payment": ["payment.*"]})
    assert scoped is not None
    assert scoped.publishers == {"order": ("order.*",), "payment": ("payment.*",)}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"signing_keys": ["k"]}, "it takes names with keys"),
        ({"signing_keys": "k" * 40}, "it takes names with keys"),
        ({"signing_keys": {"a b": "k" * 40}}, "'a b' is no name of a key"),
        ({"signing_keys": {"a": "short"}}, "the key 'a' is no text of 16 characters or more"),
        ({"signing_keys": {"a": "k" * 40}, "signing": "yes"}, 'it takes "require" or "accept"'),
        ({"signing": "require"}, "choreo_signing needs choreo_signing_keys"),
        ({"publishers": ["order"]}, "choreo_publishers needs choreo_signing_keys"),
        ({"signing_keys": {"a": "k" * 40}, "publishers": "order"}, "the names of services"),
        ({"signing_keys": {"a": "k" * 40}, "publishers": {"order": 1}}, "are no types"),
    ],
)
def test_a_wrong_setting_is_refused_and_no_key_is_shown(settings, told):
    app = Service("payment", config=None, set_as_current=False, **{f"choreo_{name}": v for name, v in settings.items()})

    with pytest.raises(DeclarationError) as error:
        app.conf.choreo_namespace  # noqa: B018
    assert told in str(error.value)
    assert "short" not in str(error.value).partition("characters")[0]


def test_the_keys_are_not_shown():
    app = service(choreo_signing_keys={"2026": "do-not-show-me-to-anybody"})

    assert "do-not-show" not in app.conf.humanize(with_defaults=False, censored=True)
    assert "do-not-show" not in str(app.conf.table(with_defaults=False, censored=True))


# -- on a stage ----------------------------------------------------------------------------------------------------


@pytest.fixture
def stage(monkeypatch) -> Stage:
    app, errors = service(), [RetryLater(5)]

    @app.on(OrderPlaced, retry=Retry(times=2))
    def charge(order: OrderPlaced) -> PaymentCharged:
        if errors:
            raise errors.pop()
        return PaymentCharged(amount_cents=order.total_cents)

    @app.join(OrderConfirmed, PaymentCharged, within=timedelta(hours=1))
    def drive(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
        return DriverAssigned()

    @app.on(OrderRejected, undoes=PaymentCharged)
    def refund(charged: PaymentCharged, rejected: OrderRejected) -> None: ...

    monkeypatch.setattr(StageRuntime, "signing", SIGNING)
    stage = Stage(app)
    for runtime in (app.runtime, stage._outside):
        runtime.publisher.signing = SIGNING
    return stage


def test_a_signed_platform_works_with_retries_joins_deadlines_and_undos(stage):
    stage.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")
    stage.publish(OrderConfirmed(), subject="ORD-1")
    stage.publish(OrderRejected(), subject="ORD-1")
    stage.publish(OrderConfirmed(), subject="ORD-2")
    stage.advance(hours=2)

    assert [letter.reason for letter in stage.dead_letters] == [Reason.EXPIRED]
    assert "driver.assigned" in stage.types
    undone = [made for made in stage.deliveries if made.handler == "payment.refund" and made.error is None]
    assert len(undone) == 3  # the effect, the failure, and the demand
    assert all(SIGNATURE in event.extensions for event in stage.events), "no handler has handed its own one on"


def test_what_is_not_signed_is_a_dead_letter_that_a_person_may_replay(stage):
    stage.deliver(envelope(OrderPlaced(customer_id="mallory"), id="m-1"), QUEUE)

    (letter,) = stage.dead_letters
    assert (letter.reason, letter.attempts) == (Reason.UNTRUSTED, 1)
    assert "is not signed" in letter.error
    assert stage.types == []

    stage.app.dead_letters.replay(letter.id)
    stage.advance(minutes=1)
    assert stage.types == ["payment.charged"]


def test_a_forged_part_of_a_join_is_not_kept(stage):
    stage.deliver(envelope(OrderConfirmed(), id="m-1"), "payment.drive")

    assert (list(stage.app.joins), len(stage.dead_letters)) == ([], 1)


def test_an_envelope_that_cannot_be_verified_is_untrusted_and_no_error_of_the_worker():
    deep: dict = {}
    for _ in range(100_000):
        deep = {"a": deep}

    with pytest.raises(EnvelopeError):
        SIGNING.checked(replace(EVENT, data=deep, extensions={SIGNATURE: "2026:0"}), QUEUE)


def test_a_log_of_an_unsigned_event_is_a_warning_only_with_accept(caplog):
    with caplog.at_level(logging.DEBUG):
        SIGNING.checked(SIGNING.signed(EVENT), QUEUE)
    assert caplog.records == []


def test_the_messages_that_have_left_are_known_by_the_error_about_the_others(monkeypatch):
    publisher = service(choreo_signing_keys={"k": NEW}).runtime.publisher
    retries = [Message.carrying(replace(EVENT, id=f"e-{n}"), exchange="", routing_key=QUEUE) for n in (1, 2)]

    def publish(messages):
        first, second = map(Post, messages)
        first.confirmed, second.refused = True, "no route"
        return [first, second]

    monkeypatch.setattr(publisher, "_publish", publish)

    with pytest.raises(PublishError) as caught:
        publisher.send(retries)
    assert [id(one) for one in caught.value.confirmed] == [id(retries[0])]
    assert [id(one) for one in caught.value.unconfirmed] == [id(retries[1])]


def test_a_service_that_announces_nothing_has_its_alerts_and_its_breaker(monkeypatch):
    signing = replace(SIGNING, publishers={"test": ("#",)})
    app = service()

    @app.on(OrderPlaced, retry=Retry(times=3, breaker=Breaker(failures=2)))
    def charge(order: OrderPlaced) -> None:
        if order.total_cents:
            raise PermanentFailure("no")
        raise ConnectionError("away")

    monkeypatch.setattr(StageRuntime, "signing", signing)
    stage = Stage(app)
    for runtime in (app.runtime, stage._outside):
        runtime.publisher.signing = signing
    for order in (OrderPlaced(customer_id="a", total_cents=1), *[OrderPlaced(customer_id="a")] * 3):
        stage.publish(order, subject="ORD-1", source="test")
    stage.advance(seconds=10)

    assert {"dead_letter.recorded", "handler.paused"} <= {event.type for event in stage.events}
    assert [paused.handler for paused in app.pauses] == ["payment.charge"]


def test_what_may_not_be_announced_is_said_as_it_is():
    publisher = service(choreo_signing_keys={"k": NEW}, choreo_publishers={"order": ["order.*"]}).runtime.publisher

    with pytest.raises(InvalidEventError, match=r"^payment may not announce payment\.charged"):
        publisher.message_for(envelope(PaymentCharged(), source="payment"))
