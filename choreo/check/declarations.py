"""CH8: declarations that do less than they seem to."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

from choreo.check.code import Function, first_line
from choreo.check.platform import Platform
from choreo.check.rule import Fault, Rule
from choreo.findings import ERROR
from choreo.local.source import dotted

#: The decorators that declare a handler, and those of a service that may stand above them.
_DECLARING = frozenset({"on", "join"})
_ANNOUNCING = frozenset({"announce", "publish", "publish_many", "apublish", "apublish_many"})
_OF_A_SERVICE = _DECLARING | {"dead_letter", "around", "task"}


def _never_called(platform: Platform) -> Iterator[Fault]:
    """Decorators above `@app.on`: it has declared the function below them, which is what is called."""
    for file in platform.sources():
        for function in file.functions.values():
            for decorator in _above(function):
                text = f"@{ast.unparse(decorator)} is above its declaration, so it is never called when an event comes"
                name = platform.handler_at.get((file.path, first_line(function)), function.name)
                yield Fault(name, text, file.spot(function))


def _above(function: Function) -> list[ast.expr]:
    places = [n for n, one in enumerate(function.decorator_list) if _method(one) in _DECLARING and _is_call(one)]
    above = function.decorator_list[: places[-1]] if places else []
    return [one for one in above if _method(one) not in _OF_A_SERVICE and dotted(one) != "staticmethod"]


def _is_call(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call)


def _method(decorator: ast.expr) -> str:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.attr if isinstance(called, ast.Attribute) else ""


def _unsaid(platform: Platform) -> Iterator[Fault]:
    for described, subscription in platform.handlers:
        if described.announces is None:
            text = "it has no return annotation, so it may announce any event"
            found = platform.code.definition(subscription.reaction.function)
            fix = "write -> None: it returns nothing" if found and _returns_nothing(found[1]) else ""
            yield Fault(described.name, text, platform.spot_of(described.name), fix)
        if described.on_timeout is None:
            yield Fault(described.name, "its on_timeout has no return annotation", platform.spot_of(described.name))


def _returns_nothing(function: Function) -> bool:
    nodes = list(ast.walk(function))
    returned = [node for node in nodes if isinstance(node, ast.Return) and node.value is not None]
    announces = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr in _ANNOUNCING]
    return not returned and not announces and not any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes)


def _never_filled(platform: Platform) -> Iterator[Fault]:
    """Parameters that keep a default of None: choreo fills only those that read an event or are the context."""
    for described, subscription in platform.handlers:
        reaction = subscription.reaction
        filled = {parameter.name for parameter in reaction.parameters}
        try:
            declared = inspect.signature(reaction.function).parameters
        except (TypeError, ValueError):  # it is not written in Python, and tells nothing
            continue
        for name, parameter in declared.items():
            if name not in filled and parameter.default is None:
                text = f"its parameter {name} is always None: it reads no event, and is no Context"
                yield Fault(described.name, text, platform.spot_of(described.name))


RULES = (
    Rule(
        "CH801",
        "a decorator above @app.on is never called",
        "@app.on declares the function below it, and returns it as it is.",
        "write @app.on above the other decorators, or use middleware: around=[...]",
        _never_called,
        ERROR,
    ),
    Rule(
        "CH802",
        "a handler does not say what it announces",
        "Neither the map nor this check sees what it leads to.",
        "add the return annotation: -> PaymentCharged | PaymentFailed, or -> None",
        _unsaid,
    ),
    Rule(
        "CH803",
        "a parameter of a handler is never filled",
        "It keeps its default of None, whatever its annotation promises.",
        "remove it, give it a default that works, or bind it: app.on(OrderPlaced)(partial(charge, gateway=gateway))",
        _never_filled,
    ),
)
