"""
CH9: coroutines that call what is made for threads.

Only calls are judged whose object the source shows to be a service: ``redis.publish(...)`` is no finding.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from choreo.check.code import File, Spot, first_line
from choreo.check.platform import Platform
from choreo.check.rule import Fault, Rule
from choreo.findings import ERROR

_BLOCKING = frozenset({"publish", "publish_many"})
#: What is called at another time, or in another thread, than the coroutine around it.
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)


def _awaited(platform: Platform) -> Iterator[Fault]:
    for file, function, call, service, is_awaited in _calls(platform):
        if is_awaited:
            text = f"it awaits {service}'s {_method(call)}, which cannot be awaited"
            yield Fault(_name(platform, file, function), text, Spot(file.path, call.lineno), _fix(call))


def _blocking(platform: Platform) -> Iterator[Fault]:
    for file, function, call, service, is_awaited in _calls(platform):
        name = _name(platform, file, function)
        # In a handler of the service, publish only adds to what the handler announces.
        if not is_awaited and not name.startswith(f"{service}."):
            text = f"it calls {service}'s {_method(call)}, which waits for the broker"
            yield Fault(name, text, Spot(file.path, call.lineno), _fix(call))


def _calls(platform: Platform) -> Iterator[tuple[File, ast.AsyncFunctionDef, ast.Call, str, bool]]:
    """The blocking calls in coroutines, each with its service, and whether it is awaited."""
    for file in platform.sources():
        services = platform.publishing.get(file.path, {})
        for function in file.functions.values() if services else ():
            if isinstance(function, ast.AsyncFunctionDef):
                for call, is_awaited in _own_calls(function):
                    service = services.get((call.lineno, call.col_offset))
                    if service and _method(call) in _BLOCKING:
                        yield file, function, call, service, is_awaited


def _own_calls(function: ast.AsyncFunctionDef) -> Iterator[tuple[ast.Call, bool]]:
    """The calls that the coroutine makes itself, and whether each is awaited."""
    waiting: list[tuple[ast.AST, bool]] = [(node, False) for node in function.body]
    while waiting:
        node, is_awaited = waiting.pop(0)
        if isinstance(node, _SCOPES):
            continue
        if isinstance(node, ast.Call):
            yield node, is_awaited
        waiting += [(child, isinstance(node, ast.Await)) for child in ast.iter_child_nodes(node)]


def _method(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def _name(platform: Platform, file: File, function: ast.AsyncFunctionDef) -> str:
    return platform.handler_at.get((file.path, first_line(function)), function.name)


def _fix(call: ast.Call) -> str:
    receiver = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else "app"
    return f"write await {receiver}.a{_method(call)}(...)"


RULES = (
    Rule(
        "CH901",
        "a coroutine awaits publish",
        "It raises AwaitError, and announces nothing.",
        "write await app.apublish(...)",
        _awaited,
        ERROR,
    ),
    Rule(
        "CH902",
        "a coroutine waits for the broker",
        "No other coroutine of its event loop runs meanwhile, for seconds if the broker does not answer.",
        "write await app.apublish(...)",
        _blocking,
    ),
)
