"""
Redacted fields: what handlers get, and people do not see.

    class CardStored(Event):
        customer_id: str
        number: Annotated[str, Redacted]

The value travels and is kept like any other. Each event names its redacted fields in the attribute `REDACTED`, so that
every program that shows it knows them, also without the class.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from choreo.events.envelope import Envelope
from choreo.events.message import Message, compact, parsed

#: The attribute of an event that names its redacted fields: a JSON list of paths, each a list of names on the wire.
REDACTED = "choreoredacted"
#: Takes the place of a redacted value.
MASK = "***"
#: In a path: each value of an object with names of the user's own.
_EACH = "*"
#: The fewest characters of a value that is looked for in a text. A shorter one is in other words by chance.
SHORTEST = 4


class Redacted:
    """Marks a field whose value people do not see: ``number: Annotated[str, Redacted]``. See docs/security.md."""


@cache
def marks_of(cls: type[Any]) -> str:
    """
    The redacted fields of an event class, for the attribute `REDACTED`; "" if it has none.

    From then on the ``repr`` of such an object does not show them either, nor that of a model in its fields.
    """
    paths = list(dict.fromkeys(_paths(cls, ())))
    return compact(paths) if paths else ""


def is_shown(cls: type[Any], field: str) -> bool:
    """True if people see all of this field of an event class."""
    info = cls.model_fields.get(field)
    return info is None or not (_is_marked(info.metadata) or any(True for _ in _paths(info.annotation, ())))


def redacted(event: Envelope) -> Envelope:
    """The event as people see it: with `MASK` in place of each redacted value."""
    if not any(REDACTED in str(part) for pair in event.extensions.items() for part in pair):
        return event
    return replace(event, data=_masked(event.data, _paths_in(event)), extensions=_without_events(event.extensions))


def redacted_message(message: Message) -> Message:
    """The message as people see it, if it carries such an event."""
    if REDACTED.encode() not in message.body:
        return message
    try:
        read = parsed(message.body)
        wire = read[0][0] if isinstance(read, list) else read
        paths = _paths_of(wire[REDACTED]) if REDACTED in wire else ()
        seen = _without_events(wire) | {"data": _masked(wire.get("data"), paths)}
        body = compact([[seen], {}, {}] if isinstance(read, list) else seen).encode()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        body = MASK.encode()  # it says that it has redacted fields, and nobody can tell which
    return replace(message, body=body)


def hidden(events: Iterable[Envelope]) -> list[str]:
    """The redacted values in these events, as they may stand in the text of an error, the longest first."""
    found = {str(value) for event in events for path in _paths_in(event) for value in _values(event.data, path)}
    texts = {text for value in found for text in (value, repr(value)[1:-1]) if len(value) >= SHORTEST}
    return sorted(texts, key=len, reverse=True)


def without(text: str, values: Sequence[str]) -> str:
    """The text with `MASK` in place of each of these values."""
    for value in values:
        text = text.replace(value, MASK)
    return text


def restored(data: Mapping[str, Any], event: Envelope) -> dict[str, Any]:
    """
    The data with the values of the event again where it has `MASK` in a redacted field: a person has edited it.

    Raises `ValueError` for a `MASK` in whose place the event has no value: it would be handled as if it were one.
    """
    changed: Any = dict(data)
    for path in _paths_in(event):
        changed = _restored(changed, event.data, path)
        if MASK in _values(changed, path) and MASK not in _values(event.data, path):
            raise ValueError(_no_value(path))
    return dict(changed)


def check_unmasked(data: Any, marks: str) -> None:
    """Raise `ValueError` if a field that these marks of a class name reads `MASK`: it was copied from what is shown."""
    for path in _paths_of(marks) if marks else ():
        if MASK in _values(data, path):
            raise ValueError(_no_value(path))


def _no_value(path: Sequence[str]) -> str:
    return f"{'.'.join(path)} reads {MASK}, which stands for a redacted value and is none. Write the value itself"


def _without_events(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes with `MASK` in place of one that holds an event with redacted fields: what demands an undo."""
    return {
        name: MASK if name != REDACTED and isinstance(value, str) and REDACTED in value else value
        for name, value in attributes.items()
    }


def _paths(annotation: Any, seen: tuple[Any, ...]) -> Iterator[tuple[str, ...]]:
    # Here, since it imports pydantic, which a program without event classes does not need.
    from choreo.events.wire_names import written_name

    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from [()] if _is_marked(arguments[1:]) else _paths(arguments[0], seen)
    elif isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        fields: Mapping[str, Any] = {} if annotation in seen else annotation.model_fields
        for name, info in fields.items():
            own = written_name(name, info)
            below = [()] if _is_marked(info.metadata) else list(_paths(info.annotation, (*seen, annotation)))
            if () in below:
                info.repr = False
            yield from ((own, *path) for path in below)
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        yield from ((_EACH, *path) for path in _paths(arguments[-1], seen))
    else:
        for argument in arguments:
            yield from _paths(argument, seen)


def _is_marked(metadata: Iterable[Any]) -> bool:
    return any(one is Redacted or isinstance(one, Redacted) for one in metadata)


def _paths_in(event: Envelope) -> Sequence[Sequence[str]]:
    return _paths_of(event.extensions[REDACTED]) if event.extensions and REDACTED in event.extensions else ()


def _paths_of(text: Any) -> Sequence[Sequence[str]]:
    """The paths in an attribute. One that cannot be read hides all fields."""
    try:
        paths = parsed(text)
        if isinstance(paths, list) and all(isinstance(path, list) for path in paths):
            return [list(map(str, path)) for path in paths]
    except (ValueError, TypeError, RecursionError):
        pass
    return [[_EACH]]


def _masked(data: Any, paths: Iterable[Sequence[str]]) -> Any:
    for path in paths:
        data = _replaced(data, path)
    return data


def _replaced(value: Any, path: Sequence[str]) -> Any:
    if isinstance(value, list):
        return [_replaced(one, path) for one in value]
    if not path:
        return None if value is None else MASK
    if not isinstance(value, dict):
        return value
    first, *rest = path
    names = value if first == _EACH and first not in value else [first] if first in value else []
    return value | {name: _replaced(value[name], rest) for name in names}


def _values(value: Any, path: Sequence[str]) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _values(one, path)
    elif not path:
        yield from () if value is None or isinstance(value, bool) else _leaves(value)
    elif isinstance(value, dict):
        first, *rest = path
        names = value if first == _EACH and first not in value else [first] if first in value else []
        for name in names:
            yield from _values(value[name], rest)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for one in value.values():
            yield from _leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one)
    elif value is not None and not isinstance(value, bool):
        yield value


def _restored(new: Any, old: Any, path: Sequence[str]) -> Any:
    if isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        return [_restored(one, other, path) for one, other in zip(new, old, strict=True)]
    if not path:
        return old if new == MASK else new
    if not (isinstance(new, dict) and isinstance(old, dict)):
        return new
    first, *rest = path
    names = new if first == _EACH and first not in new else [first]
    return new | {name: _restored(new[name], old[name], rest) for name in names if name in new and name in old}
