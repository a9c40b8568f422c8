"""CH1: commands in disguise."""

from collections.abc import Iterator

from choreo.check.platform import Platform
from choreo.check.rule import Fault, Rule
from choreo.errors import EventNameError
from choreo.events import naming
from choreo.events.tense import fact_of, is_fact
from choreo.findings import ERROR
from choreo.observe.map import Hearer, MappedEvent


def _named_like_commands(platform: Platform) -> Iterator[Fault]:
    """Names that `fact=True` lets pass, though they begin with a verb. The others are refused at import."""
    for event_type, classes in platform.by_type.items():
        for event in classes:
            words = naming.words_of(event.__name__)
            fact = None if is_fact(words) else fact_of(words)
            if fact:
                name = "".join(word.title() for word in fact)
                text = f"{event.__name__} reads like a command, and fact=True only hides that"
                yield Fault(
                    event_type, text, platform.code.of_class(event), f"name it {name}, which tells what happened"
                )


def of_refusal(error: EventNameError) -> str:
    """The text of a finding for a name that was refused at import."""
    return str(error.args[0]).removeprefix(f"{error.name} ").rstrip(".")


def _asked_and_answered(platform: Platform) -> Iterator[Fault]:
    for event in platform.map.events:
        asked = _only_hearer(event)
        askers = {one.service for one in event.announced_by}
        if asked is None or len(askers) != 1 or asked.service in askers:
            continue
        (asker,) = askers
        if _answers_only(platform, asked, asker):
            text = (
                f"only {asked.name} hears it, and only {asker}, which announces it, hears the answer: {asker} asks "
                f"{asked.service} to do something, and waits"
            )
            yield Fault(event.type, text, platform.spot_of(event.type))


def _only_hearer(event: MappedEvent) -> Hearer | None:
    hearers = event.heard_by
    return hearers[0] if len(hearers) == 1 and hearers[0].how == "on" and not hearers[0].is_wildcard else None


def _answers_only(platform: Platform, asked: Hearer, asker: str) -> bool:
    """True if the handler announces something, and no other service than ``asker`` hears any of it."""
    answers = [event for event in platform.map.events if any(one.name == asked.name for one in event.announced_by)]
    heard = {hearer.service for event in answers for hearer in event.heard_by}
    return bool(answers) and heard == {asker}


RULES = (
    Rule(
        "CH101",
        "an event is named like a command",
        "A command tells somebody what to do, so its publisher depends on the one who obeys it.",
        "name the class after what has happened: PaymentCharged, not ChargePayment",
        _named_like_commands,
        ERROR,
    ),
    Rule(
        "CH102",
        "an event asks one service, and its publisher waits for it",
        "A call in two events has the coupling of a call, and none of its simplicity.",
        "announce what happened in your own service, and let the other one decide; or call it directly",
        _asked_and_answered,
        needs_all=True,
    ),
)
