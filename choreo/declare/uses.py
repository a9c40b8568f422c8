"""
The fields of an event that the code of a handler uses, as far as its source tells.

A handler that takes the whole event class reads all its fields, and perhaps uses two. That is told from its source:
``order.total_cents`` uses this field. Whatever lets the event go elsewhere may use all of them.
"""

import ast
import inspect
from collections.abc import Callable, Iterator
from textwrap import dedent
from types import FunctionType, MethodType
from typing import Any

from choreo.declare.context import Context
from choreo.declare.reaction import code_of
from choreo.events.envelope import Envelope
from choreo.events.event import Event

#: Functions that look at an event and use no field of it.
_HARMLESS = frozenset({"isinstance", "bool", "len", "type", "id"})
#: Functions that see every variable.
_SEEING = frozenset({"locals", "vars", "eval", "exec"})
#: How deep functions that a handler calls with the event are followed.
DEEPEST = 5


#: What a context tells of the events themselves.
_EVENTS = frozenset({"envelope", "events"})
#: What an envelope tells of the fields of its event.
_DATA = frozenset({"data", "to_wire"})


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


class _Untold(Exception):
    """The event goes where nothing tells what is used of it."""


#: What reading the source of a function may raise: Python 3.11 a SystemError, if two threads parse at once.
_UNREADABLE = (_Untold, OSError, TypeError, SyntaxError, RecursionError, SystemError)


def fields_used(function: Callable[..., Any], parameter: str, model: type[Any]) -> frozenset[str] | None:
    """
    The fields that this function uses of its parameter: an event of the class ``model``, or a list of them.

    For `Envelope`, these are the keys of its data.

    None if its source does not tell, or is not there: it may then use all.
    """
    try:
        return frozenset(_used(code_of(function), parameter, model, 0))
    except _UNREADABLE:
        return None


def sees_events(function: Callable[..., Any], parameter: str) -> bool:
    """True if a function that takes a context may get at the fields of the events through it."""
    try:
        return any(_used(code_of(function), parameter, Context, 0))
    except _UNREADABLE:
        return True


def _used(function: Any, parameter: str, model: type[Any], depth: int) -> Iterator[str]:
    function = function.__func__ if isinstance(function, MethodType) else function
    if not isinstance(function, FunctionType) or hasattr(function, "__wrapped__") or depth > DEEPEST:
        raise _Untold
    tree = ast.parse(dedent(inspect.getsource(function))).body[0]
    if not isinstance(tree, _FUNCTIONS) or tree.name != function.__name__ or parameter not in _parameters(tree):
        raise _Untold
    yield from _Reading(tree, function, model, depth).of(parameter)


def _parameters(tree: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {one.arg for one in [*tree.args.posonlyargs, *tree.args.args, *tree.args.kwonlyargs]}


class _Reading:
    """Reads the source of one function."""

    def __init__(
        self, tree: ast.FunctionDef | ast.AsyncFunctionDef, function: FunctionType, model: type[Any], depth: int
    ) -> None:
        self._function, self._model, self._depth = function, model, depth
        # Not the decorators and annotations, which say nothing of the event.
        self._nodes = [node for statement in tree.body for node in ast.walk(statement)]
        self._parents = {child: node for node in self._nodes for child in ast.iter_child_nodes(node)}
        #: The variables that hold the event, and have been looked for.
        self._names: set[str] = set()

    def of(self, name: str) -> Iterator[str]:
        """The fields that are used of the variable of this name. Raises `_Untold`."""
        if name in self._names:
            return
        self._names.add(name)
        for node in self._nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SEEING:
                raise _Untold
            if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
                yield from self._use(node)

    def _use(self, node: ast.expr) -> Iterator[str]:
        """What becomes of an expression whose value is the event, or a list of events."""
        parent = self._parents.get(node)
        if isinstance(parent, ast.Attribute):
            yield from self._attribute(parent)
        elif isinstance(parent, ast.Call):
            yield from self._called(parent, node)
        elif isinstance(parent, ast.For | ast.AsyncFor | ast.comprehension) and parent.iter is node:
            yield from self._named(parent.target)
        elif isinstance(parent, ast.Assign) and len(parent.targets) == 1:
            yield from self._named(parent.targets[0])
        elif isinstance(parent, ast.NamedExpr | ast.AnnAssign):
            yield from self._named(parent.target)
            yield from self._use(parent) if isinstance(parent, ast.NamedExpr) else ()
        elif isinstance(parent, ast.Match) and parent.subject is node:
            for case in parent.cases:
                yield from self._matched(case.pattern)
        elif not self._is_test(node):
            if not isinstance(parent, ast.BoolOp | ast.IfExp):
                raise _Untold
            yield from self._use(parent)

    def _named(self, target: ast.expr) -> Iterator[str]:
        """Another variable that holds it, or one event of it after the other."""
        if not isinstance(target, ast.Name):
            raise _Untold
        yield from self.of(target.id)

    def _attribute(self, node: ast.Attribute) -> Iterator[str]:
        name, model = node.attr, self._model
        if not isinstance(node.ctx, ast.Load):
            raise _Untold
        if model is Context:
            if name in _EVENTS and (name != "envelope" or self._takes_data(node)):
                yield name
        elif model is Envelope:
            if name in _DATA:
                yield self._key(node)
        elif name in model.model_fields:
            yield name
        elif name == "meta" and issubclass(model, Event):
            if self._takes_data(node):
                raise _Untold
        elif name not in ("event_type", "event_version"):
            yield from self._own(name)

    def _takes_data(self, envelope: ast.Attribute) -> bool:
        outer = self._parents.get(envelope)
        return not isinstance(outer, ast.Attribute) or outer.attr in _DATA

    def _key(self, data: ast.Attribute) -> str:
        """The name in ``envelope.data["name"]`` or ``envelope.data.get("name")``."""
        outer = self._parents.get(data)
        key: Any = None
        if isinstance(outer, ast.Subscript):
            key = outer.slice
        elif isinstance(outer, ast.Attribute) and outer.attr == "get":
            call = self._parents.get(outer)
            key = call.args[0] if isinstance(call, ast.Call) and call.args else None
        if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            raise _Untold
        return key.value

    def _own(self, name: str) -> Iterator[str]:
        """What a property or a method of the class itself uses."""
        own = next((vars(cls)[name] for cls in self._model.__mro__ if name in vars(cls)), None)
        own = getattr(own, "wrapped", own)  # of a computed field
        function = own.fget if isinstance(own, property) else own
        if not isinstance(function, FunctionType) or function.__module__.partition(".")[0] in ("pydantic", "choreo"):
            raise _Untold
        yield from _used(function, next(iter(inspect.signature(function).parameters)), self._model, self._depth + 1)

    def _called(self, call: ast.Call, argument: ast.expr) -> Iterator[str]:
        """What a function uses that gets the event."""
        if not isinstance(call.func, ast.Name) or argument not in call.args:
            raise _Untold
        if call.func.id in _HARMLESS:
            return
        function = self._function.__globals__.get(call.func.id)
        if not isinstance(function, FunctionType) or any(isinstance(one, ast.Starred) for one in call.args):
            raise _Untold
        names = list(inspect.signature(function).parameters)
        yield from _used(function, names[call.args.index(argument)], self._model, self._depth + 1)

    def _matched(self, pattern: ast.pattern) -> Iterator[str]:
        """``case OrderPlaced(total_cents=total)``."""
        if isinstance(pattern, ast.MatchOr):
            for one in pattern.patterns:
                yield from self._matched(one)
        elif isinstance(pattern, ast.MatchClass) and not pattern.patterns:
            yield from (name for name in pattern.kwd_attrs if name in self._model.model_fields)
        elif not (isinstance(pattern, ast.MatchAs) and pattern.name is None):
            raise _Untold

    def _is_test(self, node: ast.expr) -> bool:
        """True for a part of a condition, such as ``if order is None``: the event goes no further."""
        parent: Any = self._parents.get(node)
        if isinstance(parent, ast.Compare):
            return all(isinstance(one, ast.Is | ast.IsNot) for one in parent.ops)
        if isinstance(parent, ast.BoolOp) and isinstance(parent.op, ast.And) and node is not parent.values[-1]:
            return True
        if isinstance(parent, ast.BoolOp):
            return self._is_test(parent)
        if isinstance(parent, ast.UnaryOp):
            return isinstance(parent.op, ast.Not)
        return isinstance(parent, ast.If | ast.IfExp | ast.While | ast.Assert) and parent.test is node
