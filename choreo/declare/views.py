"""Checks of views: a view that no event of a class can fit is refused when its handler is declared."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import AliasPath, BaseModel
from pydantic.fields import FieldInfo

from choreo.declare.reaction import Parameter, Reaction, describe
from choreo.errors import DeclarationError
from choreo.events.event import Event
from choreo.events.schema import Node, is_own_serializer, is_pydantics, nodes
from choreo.events.travel import way_of
from choreo.events.wire_names import choices_of, written_name
from choreo.schemas import shape
from choreo.schemas.clash import Clash, Kind
from choreo.schemas.lax import sure_clashes
from choreo.schemas.shape import Schema

#: Validators that may make anything of what they get.
_CONVERTING = frozenset({"function-before", "function-wrap", "function-plain"})


def check_reads(reaction: Reaction, heard: Sequence[Iterable[type[Event]]]) -> None:
    """
    Raise `DeclarationError` if a function cannot read the events that it takes.

    ``heard`` are the classes of events that each of its inputs takes. A view is judged by their fields and types. In
    doubt it is accepted: a value that does not fit is a failure of the handler, as before.
    """
    for parameter, events in zip(reaction.inputs, heard, strict=True):
        where = f"{describe(reaction.function)}, parameter {parameter.name!r}"
        for event in events:
            _check_read(where, parameter, event)


def _check_read(where: str, parameter: Parameter, event: type[Event]) -> None:
    if parameter.wants_envelope:
        return
    model = parameter.model_of(event.event_type)
    if issubclass(model, Event):
        if fault := way_of(model).fault:  # of a class that was not complete when it was declared
            raise DeclarationError(f"{where}: {fault}")
    elif not _has_its_fields(model, event):
        _check_view(where, model, event)


def _has_its_fields(view: type[BaseModel], event: type[Event]) -> bool:
    """True if each field of the view is one of the event, with the same annotation: nearly all views."""
    own, theirs = view.model_fields, event.model_fields
    is_plain = view.model_config.get("extra") != "forbid" and not way_of(event).is_checked
    return is_plain and all(
        name in theirs
        and (field.alias, field.annotation) == (theirs[name].alias, theirs[name].annotation)
        and field.validation_alias == field.alias
        for name, field in own.items()
    )


def _check_view(where: str, view: type[BaseModel], event: type[Event]) -> None:
    reads = _known(view, shape.read(view), _reads_anything)
    writes = _known(event, shape.written(event), _writes_anything)
    for clash in sure_clashes(writes, reads):
        raise DeclarationError(f"{where}: {_fault(view.__name__, event, clash)}")


def _known(model: type[BaseModel], schema: Schema, is_unknown: Callable[[Node], bool]) -> Schema:
    """The schema, with {} (anything) for the fields of which only running the user's code could tell."""
    unknown = {node.holder for node in nodes(model.__pydantic_core_schema__) if is_unknown(node)}
    if "" in unknown:
        return {}
    places = {place for name in unknown for place in _places(name, model.model_fields[name])}
    fields: Mapping[str, Any] = schema.get("properties", {})
    return {**schema, "properties": {name: {} if name in places else part for name, part in fields.items()}}


def _places(name: str, field: FieldInfo) -> list[Any]:
    """The names under which a schema may list a field."""
    read = [choice.path[0] if isinstance(choice, AliasPath) else choice for choice in choices_of(name, field)]
    return [name, written_name(name, field), *read]


def _reads_anything(node: Node) -> bool:
    """True for a validator of the user's that gets the data first, and for texts that are made of numbers."""
    if node.kind in _CONVERTING:
        return not is_pydantics(node.schema["function"]["function"])
    coerces = node.schema.get("coerce_numbers_to_str", node.config.get("coerce_numbers_to_str"))
    return node.kind == "str" and bool(coerces)


def _writes_anything(node: Node) -> bool:
    """True for a serializer of the user's that does not say what it returns."""
    return is_own_serializer(node.schema) and "return_schema" not in node.schema["serialization"]


def _fault(view: str, cls: type[Event], clash: Clash) -> str:
    event = cls.__name__
    if clash.kind is Kind.REFUSED:
        return (
            f'{view} has extra="forbid", and {event} has the field {clash.path}: no event would fit. Leave out '
            f'extra="forbid".'
        )
    if clash.kind is not Kind.MISSING:
        return (
            f"{view} does not fit {event}: {clash.text}. Annotate it as {event} does, or convert it: "
            f"Annotated[..., BeforeValidator(...)]."
        )
    fields = dict(_written_names(cls))
    guesses = [fields[clash.field]] if clash.field in fields else get_close_matches(clash.field, fields.values(), n=1)
    hint = f"did you mean {guesses[0]}?" if guesses else f"it has {', '.join(fields.values()) or 'none'}."
    return (
        f"{view}.{clash.path} is required, and {event} has no such field, {hint} Name it as {event} does, give it an "
        f"alias, or a default."
    )


def _written_names(event: type[Event]) -> Iterable[tuple[str, str]]:
    """The fields of an event, with their names on the wire."""
    for name, field in event.model_fields.items():
        yield name, written_name(name, field)
    for name, computed in event.model_computed_fields.items():
        yield name, computed.alias or name
