"""
Walks through pydantic's core schema of a class: https://docs.pydantic.dev/latest/api/pydantic_core_schema/

The core schema says exactly what pydantic does, also with types and annotations of the user's own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Schema = Mapping[str, Any]

#: The parts of a node that hold no nodes that a reader uses.
_NO_NODES = frozenset(
    "computed_fields config custom_error_context default default_factory expected function members metadata "
    "serialization strict_schema".split()
)
#: Validators that get the data before pydantic has looked at it.
_BEFOREHAND = frozenset({"function-before", "function-wrap", "function-plain"})


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a core schema, and where it is."""

    schema: Schema
    #: The field of the whole class that holds it; "" outside of fields.
    holder: str = ""
    #: The field of the nearest model, such as ``Line.price``; "" outside of fields.
    place: str = ""
    #: The configuration of the nearest model.
    config: Schema = field(default_factory=dict)
    #: True if a serializer of the user's, further out, writes what is here.
    is_rewritten: bool = False
    #: True if a validator of the user's, further out in the same field or model, gets the data first.
    is_reshaped: bool = False

    @property
    def kind(self) -> str:
        """The type of the node, such as "list"."""
        return str(self.schema["type"])

    @property
    def fields(self) -> Iterator[tuple[str, Schema]]:
        """The fields of a model, a dataclass or a typed dict, if this is the node that lists them."""
        return _fields(self.schema.get("fields", ()))


def nodes(schema: Schema) -> Iterator[Node]:
    """Every node of a core schema, from the outside in. A definition comes once."""
    return _walk(Node(schema))


def _walk(node: Node) -> Iterator[Node]:
    if config := node.schema.get("config"):
        node = replace(node, config=config)
    yield node
    inner = replace(
        node,
        is_rewritten=node.is_rewritten or is_own_serializer(node.schema),
        is_reshaped=node.kind in _BEFOREHAND or (node.is_reshaped and not node.kind.endswith("-field")),
    )
    for name, part in node.schema.items():
        if name == "fields":
            for key, one in _fields(part):
                yield from _walk(_entered(inner, key, one))
        elif name not in _NO_NODES:
            for one in _parts(part):
                yield from _walk(replace(inner, schema=one))


def _entered(node: Node, name: str, schema: Schema) -> Node:
    owner = node.schema.get("model_name") or node.schema.get("dataclass_name")
    return replace(node, schema=schema, holder=node.holder or name, place=f"{owner}.{name}" if owner else name)


def _fields(part: Any) -> Iterator[tuple[str, Schema]]:
    if isinstance(part, Mapping):
        yield from part.items()
    else:
        yield from ((one["name"], one) for one in part if isinstance(one, Mapping) and "name" in one)


def _parts(part: Any) -> Iterator[Schema]:
    """The nodes in a part of a node: one, a list, a table, or choices with their labels."""
    if isinstance(part, Mapping) and isinstance(part.get("type"), str):
        yield part
    elif isinstance(part, Mapping):
        for one in part.values():
            yield from _parts(one)
    elif isinstance(part, list | tuple):
        for one in part:
            yield from _parts(one)


def is_own_serializer(schema: Schema) -> bool:
    """True if a serializer of the user's writes what is here. Some of pydantic's own types have one of pydantic's."""
    function = schema.get("serialization", {}).get("function")
    return function is not None and not is_pydantics(function)


def is_pydantics(function: Any) -> bool:
    """True for a function of pydantic's own."""
    module = getattr(getattr(function, "func", function), "__module__", None)
    return str(module).partition(".")[0] in ("pydantic", "pydantic_core")
