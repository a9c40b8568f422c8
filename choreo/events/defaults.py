"""Defaults of fields, which pydantic does not check: ``name: str = None``."""

from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined, to_json

#: Errors of validators of the user's. They may depend on other fields, which have no value yet.
_OF_USER = frozenset({"value_error", "assertion_error"})


def fault_of_defaults(cls: type[BaseModel], event: str) -> str:
    """
    The first field of a model whose default cannot be read back, and the way out; "" if there is none.

    ``event`` is the name of the event class, which is the model or has it in a field. No factory is called.
    """
    given = {name: field.default for name, field in cls.model_fields.items() if _is_unchecked(field)}
    try:
        cls.__pydantic_validator__.validate_json(to_json(_written(cls, given)))
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            field = _field(cls, fault["loc"][:1])
            if field and fault["type"] not in _OF_USER:
                return _told(cls, event, field, fault["msg"])
    except Exception:  # of a serializer or validator of the user's; each event is then read back before it leaves
        return ""
    return ""


def _field(cls: type[BaseModel], place: tuple[Any, ...]) -> str:
    """The field with a default that is read under this name; "" if there is none. A required field is only missing."""
    fields = {name: field for name, field in cls.model_fields.items() if field.default is not PydanticUndefined}
    return next((name for name, one in fields.items() if place and place[0] in (name, one.validation_alias)), "")


def _is_unchecked(field: Any) -> bool:
    return field.default is not PydanticUndefined and not field.exclude


def _written(cls: type[BaseModel], given: dict[str, Any]) -> dict[str, Any]:
    sample = cls.__new__(cls)
    state: dict[str, Any] = {"__dict__": given, "__pydantic_fields_set__": set(), "__pydantic_extra__": None}
    for name, value in (state | {"__pydantic_private__": None}).items():
        object.__setattr__(sample, name, value)
    write = cls.__pydantic_serializer__.to_python
    data: dict[str, Any] = write(sample, mode="json", by_alias=True, include=set(given), warnings=False)
    return data


def _told(cls: type[BaseModel], event: str, field: str, fault: str) -> str:
    name = f"{cls.__name__}.{field}" + ("" if cls.__name__ == event else f" (in {event})")
    default = cls.model_fields[field].default
    way_out = "Annotate the field with `| None`" if default is None else "Give it a default that its type reads"
    return f"{name}: its default {default!r:.80}, once written, cannot be read: {fault}. {way_out}."
