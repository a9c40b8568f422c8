"""Return annotations: whether a handler announces nothing, one event or several."""

import types
import typing
from collections.abc import Callable
from typing import Any

from choreo.declare.reaction import code_of
from choreo.events.event import Event


def may_return_nothing(function: Callable[..., Any]) -> bool:
    """True unless the return annotation says that the function always returns an event."""
    return not all(isinstance(one, type) and issubclass(one, Event) for one in _options(function))


def returns_one_at_most(function: Callable[..., Any]) -> bool:
    """True if the return annotation names event classes and None, and no list or generator of events."""
    return all(isinstance(one, type) and (issubclass(one, Event) or one is type(None)) for one in _options(function))


def _options(function: Callable[..., Any]) -> tuple[Any, ...]:
    """The parts of ``A | B``. Without an annotation that can be read, any list."""
    try:
        returned = typing.get_type_hints(code_of(function)).get("return", list)
    except Exception:  # an annotation can be any code, and raise anything
        return (list,)
    is_union = typing.get_origin(returned) in (typing.Union, types.UnionType)
    return typing.get_args(returned) if is_union else (returned,)
