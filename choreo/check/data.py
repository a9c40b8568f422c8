"""CH7: what events carry: too much of it, versions, and fields that another reader misunderstands."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo

from choreo.check.platform import Platform
from choreo.check.rule import Fault, Rule
from choreo.contracts.contract import Contract, Contracts
from choreo.contracts.folder import file_of, files_of
from choreo.contracts.settings import read_settings
from choreo.declare.join import wire_name
from choreo.declare.models import described_models
from choreo.events.event import Event
from choreo.events.redaction import Redacted
from choreo.events.versions import versions_of
from choreo.findings import ERROR

#: The largest whole number that every reader of JSON keeps: a double has no more digits.
LARGEST = 2**53 - 1
#: Names of fields that hold secrets.
_SECRET = re.compile(
    r"(?:.*_)?(?:password|passwd|passphrase|secret|secret_key|private_key|api_key|access_token|refresh_token|auth_token|"
    r"session_token|card_number|cvv|cvc|pin_code|ssn)"
)


def _fat(platform: Platform) -> Iterator[Fault]:
    most = platform.settings.fields
    for event in _events(platform):
        if len(event.model_fields) > most:
            text = f"it has {len(event.model_fields)} fields, more than fields = {most}"
            yield Fault(event.event_type, text, platform.code.of_class(event))


def _unread(platform: Platform) -> Iterator[Fault]:
    """Fields that no hearer reads, of events whose hearers all say what they read."""
    for kind, classes in platform.by_type.items():
        event = platform.map.event(kind)
        hearers = [hearer for hearer in event.heard_by if hearer.how in ("on", "join")] if event else []
        if not hearers or not event or not event.announced_by or platform.is_heard_elsewhere(kind):
            continue
        read = [hearer.reads for hearer in event.heard_by if hearer.how != "unless"]
        if any(fields is None for fields in read):
            continue
        known = {name for fields in read for name in fields or ()}
        unread = [name for name in classes[0].model_fields if wire_name(classes[0], name) not in known]
        if unread:
            text = f"nobody reads {', '.join(unread)}"
            yield Fault(kind, text, platform.code.of_class(classes[0]))


def _of_another_version(platform: Platform) -> Iterator[Fault]:
    """Handlers that cannot read a version of an event that is announced."""
    announced = _announced(platform)
    for described, _ in platform.handlers:
        for kind, versions in described.versions.items():
            for event in announced.get(kind, ()):
                if event.event_version in versions or 0 < event.event_readable_by <= max(versions):
                    continue
                read = " and ".join(map(str, versions))
                text = f"it reads version {read} of {kind}, and version {event.event_version} is announced"
                yield Fault(described.name, text, platform.spot_of(described.name))


def _announced(platform: Platform) -> dict[str, set[type[Event]]]:
    """Type → the classes that declarations say to announce."""
    found: dict[str, set[type[Event]]] = {}
    for app in platform.apps:
        for event in [*(app.announces or ()), *(e for one in app.subscriptions for e in one.reaction.announces or ())]:
            found.setdefault(event.event_type, set()).add(event)
    return found


def _unexplained_versions(platform: Platform) -> Iterator[Fault]:
    """A version above 1 without a way from the one before it: what still waits in that version cannot be read."""
    for kind, classes in platform.by_type.items():
        readable = {version for event in classes for version in versions_of(event)}
        for event in classes:
            older = event.event_version - 1
            if older and older not in readable:
                text = f"it is version {event.event_version}, and nothing reads version {older}"
                yield Fault(kind, text, platform.code.of_class(event))


def _of_other_contracts(platform: Platform) -> Iterator[Fault]:
    """Classes whose contract files were not written again: of the packages that have such files."""
    settings = read_settings(Path.cwd())
    packages = {name.partition(".")[0] for name in settings.packages}
    classes = [event for event in _events(platform) if not packages or event.__module__.partition(".")[0] in packages]
    files = {file.name: file for file in (settings.directory / "events").glob("*.json")}
    for event in classes if settings.directory.is_dir() else ():
        contract = Contract(described_models([event])[event], inspect.cleandoc(event.__doc__ or ""))
        file = files.get(Path(file_of(contract)).name)
        if file is None:
            text = f"there is no contract file {settings.directory / file_of(contract)}"
        elif file.read_text() != files_of(Contracts("", [contract], []), "")[file_of(contract)]:
            text = f"its contract file {file} says something else"
        else:
            continue
        yield Fault(event.event_type, text, platform.code.of_class(event))


def _strict(platform: Platform) -> Iterator[Fault]:
    for described, subscription in platform.handlers:
        for parameter in subscription.reaction.inputs:
            for model in parameter.models:
                if model.model_config.get("extra") == "forbid":
                    text = f'{model.__name__} forbids unknown fields (extra="forbid")'
                    yield Fault(described.name, text, platform.code.of_class(model))


def _too_large(platform: Platform) -> Iterator[Fault]:
    for event, name, field in _fields(platform):
        largest = max((abs(number) for number in _numbers(field)), default=0)
        if largest > LARGEST:
            text = f"{name} can be {largest}, above 2**53 - 1"
            yield Fault(event.event_type, text, platform.code.of_class(event))


def _numbers(field: FieldInfo) -> Iterator[int]:
    """The whole numbers that a field names: its default, its bounds, and those of a Literal."""
    bounds = [getattr(one, name, None) for one in field.metadata for name in ("ge", "gt", "le", "lt")]
    literal = [value for value in get_args(field.annotation) if isinstance(value, int)]
    for value in (field.default, *bounds, *literal):
        if isinstance(value, int) and not isinstance(value, bool):
            yield value


def _durations(platform: Platform) -> Iterator[Fault]:
    for event, name, field in _fields(platform):
        if timedelta in _named(field.annotation) and not _has_serializer(event, name, field):
            text = f"{name} is a timedelta, which travels as a text like PT1H30M"
            yield Fault(event.event_type, text, platform.code.of_class(event))


def _without_zone(platform: Platform) -> Iterator[Fault]:
    for event, name, field in _fields(platform):
        is_plain = datetime in _named(field.annotation) and AwareDatetime not in _named(field.annotation)
        if is_plain and not _has_validator(event, name, field):
            text = f"{name} takes a datetime without a time zone"
            yield Fault(event.event_type, text, platform.code.of_class(event))


def _secrets(platform: Platform) -> Iterator[Fault]:
    """Texts with the name of a secret, unless they are redacted. Secrets of pydantic are refused at import."""
    for event, name, field in _fields(platform):
        is_marked = any(one is Redacted or isinstance(one, Redacted) for one in field.metadata)
        if _SECRET.fullmatch(name) and str in _named(field.annotation) and not is_marked:
            yield Fault(event.event_type, f"{name} is a secret, by its name", platform.code.of_class(event))


def _events(platform: Platform) -> Iterator[type[Event]]:
    for classes in platform.by_type.values():
        yield from classes


def _fields(platform: Platform) -> Iterator[tuple[type[Event], str, FieldInfo]]:
    """The fields of the events, and of the models in them: with dots, as ``address.street``."""
    for event in _events(platform):
        for name, field in _deep(event, event.model_fields, frozenset()):
            yield event, name, field


def _deep(
    model: type[BaseModel], fields: Mapping[str, FieldInfo], seen: frozenset[type]
) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in fields.items():
        yield name, field
        for inner in _named(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel) and inner not in seen | {model}:
                for below, its in _deep(inner, inner.model_fields, seen | {model}):
                    yield f"{name}.{below}", its


def _named(annotation: Any) -> list[Any]:
    """The classes that an annotation names, at any depth."""
    inner = get_args(annotation)
    return [part for one in inner for part in _named(one)] if inner else [annotation]


def _has_validator(event: type[Event], name: str, field: FieldInfo) -> bool:
    decorators = event.__pydantic_decorators__
    validated = {field for one in decorators.field_validators.values() for field in one.info.fields}
    return bool(field.metadata or decorators.model_validators or {name, "*"} & validated)


def _has_serializer(event: type[Event], name: str, field: FieldInfo) -> bool:
    serialized = event.__pydantic_decorators__.field_serializers.values()
    config = event.model_config.get("ser_json_timedelta", "iso8601")
    return bool(field.metadata) or config == "float" or any(name in one.info.fields for one in serialized)


RULES = (
    Rule(
        "CH701",
        "an event has more fields than the budget allows",
        "Each field is a promise to every hearer, so the publisher can no longer change its own model.",
        "announce what its hearers need, and let them ask for more; or raise fields in [tool.choreo.check]",
        _fat,
    ),
    Rule(
        "CH702",
        "nobody reads a field of an event",
        "What is announced has to be kept up, also for nobody.",
        "leave the field out until somebody needs it",
        _unread,
        needs_all=True,
    ),
    Rule(
        "CH703",
        "a handler cannot read a version that is announced",
        "Each event of this version becomes a dead letter of the handler.",
        "read it with the newer class and its upcasters, or say readable_by= in the class that is announced",
        _of_another_version,
        ERROR,
        needs_all=True,
    ),
    Rule(
        "CH704",
        "a version has no way from the one before it",
        "Events of the older version still wait in queues, schedules, joins and dead letters.",
        "give the class an upcaster from the older version, or keep a class that reads it",
        _unexplained_versions,
        ERROR,
    ),
    Rule(
        "CH705",
        "a handler refuses events with a new field",
        "When the publisher adds a field, every event becomes a dead letter of this handler.",
        'read with extra="ignore", the default',
        _strict,
        ERROR,
    ),
    Rule(
        "CH706",
        "a number is larger than other languages read",
        "JavaScript and others read numbers as doubles: above 2**53 - 1 the last digits are lost.",
        "send the number as a text",
        _too_large,
    ),
    Rule(
        "CH707",
        "a field is a duration in ISO 8601",
        "Few languages read a text like PT1H30M without a library.",
        "send a number with its unit in the name: delay_seconds: float",
        _durations,
    ),
    Rule(
        "CH708",
        "a field takes times without a time zone",
        "Readers in another zone take such a time for another moment.",
        "annotate it with pydantic.AwareDatetime",
        _without_zone,
    ),
    Rule(
        "CH709",
        "an event carries a secret",
        "Events are kept and shown: in queues, dead letters, records and logs.",
        "announce a reference to the secret; or, if it has to travel, annotate it with Annotated[str, Redacted]",
        _secrets,
        ERROR,
    ),
    Rule(
        "CH710",
        "the contract file of an event says something else",
        "Nobody has judged whether the change breaks a reader.",
        "judge it with `choreo events diff`, and write the files with `choreo events write`",
        _of_other_contracts,
        ERROR,
    ),
)
