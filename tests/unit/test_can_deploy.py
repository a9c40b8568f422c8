"""May a service be deployed beside what runs? And what a change of an event means for those that run."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from choreo import Event, Upcast
from choreo.contracts.changes import changes
from choreo.contracts.contract import Contracts
from choreo.contracts.deploy import Pair, pairs
from choreo.contracts.running import Running, Waiting, look
from choreo.declare.description import ServiceDescription
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.store.presence import Program
from tests.unit.contracts import event, loyalty, payment, state, view
from tests.unit.stage import Stage, service

INT, TEXT = (int, ...), (str, ...)
V1, V2 = event(total=INT), event(version=2, total_cents=INT)
UPCAST = event(version=2, upcasters=[Upcast(1, renamed={"total": "total_cents"})], total_cents=INT)


class Platform:
    """What runs, and what waits for it."""

    def __init__(self) -> None:
        self.app = service("command_line")
        self.stage = Stage(self.app)
        self.store = self.stage.store

    def runs(self, app: Any, version: str = "1.4", *, as_older: bool = False, pool: str = "solo") -> "Platform":
        described = app if isinstance(app, ServiceDescription) else app.describe()
        text = described.to_json()
        if as_older:
            told = json.loads(text)
            for handler in told["handlers"]:
                del handler["models"], handler["versions"]
            del told["models"]
            text = json.dumps(told)
        program = Program(f"{described.service}@host/1", described.service, version=version, pool=pool, digest=text)
        self.store.report(described.service, program, text, 60.0 if pool else 0.0)
        self.store.register([handler.name for handler in described.handlers])
        return self

    def dead_letter(self, version: int, handler: str = "loyalty.award_points") -> "Platform":
        sent = Envelope(
            f"e-{version}", "payment.charged", "payment", "ORD-1", datetime.now(UTC), "s", version=version, data={}
        )
        message = Message.carrying(sent, exchange="", routing_key=handler)
        letter = DeadLetter("loyalty", handler, Reason.REFUSED, "no", message, envelopes=(sent,))
        self.store.add_letter(handler, letter.id, letter.to_json(), card=letter.card)
        return self

    def look(self) -> Running:
        return look(self.app, ["payment.charged"])


def deployed(new: Contracts, platform: Platform, *only: str) -> dict[tuple[str, str], Pair]:
    return {(pair.consumer, pair.provider): pair for pair in pairs(new, platform.look(), only)}


def checkout(announced: type[Event], *apps: Any) -> Contracts:
    return replace(state(announced, *apps), releases={"payment": "2.0", "loyalty": "1.5"})


def test_a_provider_may_not_take_a_field_away_from_those_who_run():
    platform = Platform().runs(loyalty(V1, view(total=INT)))
    renamed = event(total_cents=INT)

    pair = deployed(checkout(renamed, payment(renamed)), platform)["loyalty", "payment"]

    assert (pair.consumer_version, pair.provider_version, pair.verdict) == ("1.4", "2.0", "no")
    assert pair.reasons == (
        (
            "loyalty 1.4 still reads `total` of payment.charged (loyalty.award_points): "
            "total is read and never written "
            "· fix: keep it until no reader needs it, or write the next version=, with upcasters=[Upcast(...)]"
        ),
    )


def test_a_provider_may_take_away_what_nobody_reads():
    platform = Platform().runs(loyalty(V1, view(total=INT)))
    more = event(total=INT, more=TEXT)

    assert deployed(checkout(more, payment(more)), platform)["loyalty", "payment"].verdict == "yes"


def test_a_new_version_waits_for_its_readers():
    old, new = Platform().runs(loyalty(V1)), Platform().runs(loyalty(UPCAST), "1.5")
    made = checkout(UPCAST, payment(UPCAST))

    assert deployed(made, old)["loyalty", "payment"].reasons == (
        (
            "loyalty 1.4 still reads payment.charged of version 1 only, not 2 (loyalty.award_points) "
            "· fix: deploy readers of both versions first, or readable_by="
        ),
    )
    assert deployed(made, new)["loyalty", "payment"].verdict == "yes"


def test_a_consumer_is_compared_with_those_who_announce():
    platform = Platform().runs(payment(V1))

    upcasts = deployed(checkout(UPCAST, loyalty(UPCAST)), platform)
    refuses = deployed(checkout(V2, loyalty(V2)), platform)

    assert upcasts["loyalty", "payment"].verdict == "yes"
    assert refuses["loyalty", "payment"].verdict == "no"


def test_what_nobody_announces_is_unknown():
    pair = deployed(checkout(V1, loyalty(V1), payment(V1)), Platform().runs(service("other")), "loyalty")["loyalty", ""]

    assert pair.verdict == "unknown"
    assert pair.reasons == ("nobody who runs announces payment.charged; deploy payment",)


def test_what_no_code_here_announces_either_is_unknown_and_said():
    pair = deployed(checkout(V1, loyalty(V1)), Platform().runs(service("other")), "loyalty")["loyalty", ""]

    assert pair.verdict == "unknown"
    assert pair.reasons == ("nobody who runs announces payment.charged, and no other code here does",)


def test_what_an_older_choreo_describes_is_unknown():
    platform = Platform().runs(loyalty(V1), as_older=True)

    pair = deployed(checkout(V1, payment(V1)), platform)["loyalty", "payment"]

    assert pair.verdict == "unknown"


def test_a_handler_that_takes_the_envelope_reads_everything():
    watcher = service("audit")

    @watcher.on("payment.*")
    def log(event: Envelope) -> None: ...

    platform = Platform().runs(watcher).runs(payment(V1))
    made = checkout(V2, payment(V2))

    assert deployed(made, platform)["audit", "payment"].verdict == "yes"
    assert deployed(replace(made, services=[watcher.describe()]), platform)["audit", "payment"].verdict == "yes"


def test_dead_letters_that_could_not_be_replayed_are_a_no():
    platform = Platform().runs(payment(V2), "2.0").dead_letter(1).dead_letter(1)
    platform.store.register(["loyalty.award_points"])
    made = checkout(V2, loyalty(V2))
    known = replace(made, events=[*made.events, *state(V1).events])

    pair = deployed(known, platform)["loyalty", "what waits"]
    unknown = deployed(made, platform)["loyalty", "what waits"]

    assert pair.verdict == "no"
    assert "version 2 only, not 1" in pair.reasons[0]
    assert pair.reasons[0].startswith("0 in backlog, 2 dead letters at v1: loyalty reads")
    assert pair.reasons[0].endswith("fix: upcasters=[Upcast(...)] for it")
    assert unknown.verdict == "unknown"
    assert unknown.reasons[0].endswith("no contract file tells its fields")
    both = deployed(known, platform.dead_letter(7))["loyalty", "what waits"]
    assert both.verdict == "no", "the worst counts"
    assert [reason.rpartition("at ")[2].partition(":")[0] for reason in both.reasons] == ["v1", "v7"]


def test_its_readers_are_in_the_same_checkout():
    platform = Platform().runs(loyalty(V1))
    made = checkout(UPCAST, payment(UPCAST), loyalty(UPCAST))

    assert (
        deployed(made, platform, "payment")["loyalty", "payment"]
        .reasons[0]
        .endswith("(loyalty.award_points) · fix: deploy loyalty of this checkout first")
    )


def test_what_waits_was_written_by_those_who_run_and_not_by_this_checkout():
    platform = Platform().runs(payment(V1)).runs(loyalty(V1)).dead_letter(1)
    more = event(total=INT, currency=TEXT)  # needed, and still version 1

    pair = deployed(checkout(more, payment(more), loyalty(more)), platform, "loyalty")["loyalty", "what waits"]

    assert pair.verdict == "no"
    assert pair.reasons == (
        (
            "0 in backlog, 1 dead letter at v1: loyalty reads `currency` of payment.charged (loyalty.award_points): "
            "currency is read and never written "
            "· fix: give it a default, or write the next version=, with upcasters=[Upcast(...)]"
        ),
    )


def test_what_waits_is_of_a_version_that_is_known_even_if_its_queue_tells_none():
    running = replace(
        Platform().runs(payment(V1)).look(), waiting={("loyalty.award_points", "payment.charged"): [Waiting(None, 3)]}
    )

    def verdict(made: Contracts) -> str:
        return {pair.provider: pair.verdict for pair in pairs(made, running, ["loyalty"])}["what waits"]

    upcasts, refuses = checkout(UPCAST, loyalty(UPCAST)), checkout(V2, loyalty(V2))
    assert verdict(upcasts) == "yes", "version 1 runs, version 2 is here, and it reads both"
    assert verdict(refuses) == "unknown", "if version 1 is among them"


def test_a_program_without_a_worker_hears_nothing():
    platform = Platform().runs(loyalty(V1), pool="")
    made = checkout(V2, payment(V2))

    assert not deployed(made, platform)
    assert not [one for one in changes(state(V1, payment(V1)), made, platform.look()) if one.level == "error"]


def test_a_change_tells_what_waits_for_those_that_it_hurts():
    platform = Platform().runs(loyalty(V1)).dead_letter(1)
    old, new = state(V1, payment(V1), loyalty(V1)), state(V2, payment(V2), loyalty(V2))

    found = {one.rule: one.text for one in changes(old, new, platform.look())}

    assert found["upcaster-missing"].endswith("read by loyalty.award_points · 0 in backlog, 1 dead letter at v1")
    assert "loyalty.award_points (1.4 runs)" in found["version-unread"]


def test_readers_that_run_are_hurt_even_if_this_checkout_does_not_know_them():
    platform = Platform().runs(loyalty(V1, view(total=INT), "bonus"), "7")
    without = event(other=TEXT)

    (told,) = [
        one
        for one in changes(state(V1, payment(V1)), state(without, payment(without)), platform.look())
        if one.rule == "field-removed"
    ]

    assert told.level == "error"
    assert told.text == "total removed; read by bonus.award_points (7 runs, view)"
