"""
CH5: assumptions about the order of events.

Only what is certain is a finding: a container in memory that one handler changes, and a handler of another event reads
(who keeps such a container relies on the order of the events, and on a single process); and a handler that wants its
events one after another by a key that some of them do not have.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from choreo.cached import cached_property
from choreo.check.code import File, Function
from choreo.check.platform import Platform
from choreo.check.rule import Fault, Rule
from choreo.events.json_types import json_types
from choreo.findings import ERROR
from choreo.local.source import dotted

#: What makes a container that can be changed.
_CONTAINERS = frozenset(
    "dict set list defaultdict Counter deque OrderedDict bytearray collections.defaultdict collections.Counter "
    "collections.deque collections.OrderedDict".split()
)
_LITERALS = (ast.Dict, ast.Set, ast.List, ast.DictComp, ast.SetComp, ast.ListComp)
#: The methods that change a container.
_CHANGING = frozenset(
    "add append appendleft clear discard extend extendleft insert pop popitem popleft remove setdefault update".split()
)


@dataclass
class _Use:
    """What a function does with the containers of its module or its object."""

    changed: set[str] = field(default_factory=set)
    read: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)


class _Memory:
    """The containers of one file, and who uses them."""

    def __init__(self, file: File) -> None:
        self._tree = file.tree

    @cached_property
    def containers(self) -> set[str]:
        """The names of the containers: of the module, and ``self.pending`` of its classes."""
        found = {name for node in self._tree.body for name in _kept(node)}
        for node in ast.walk(self._tree):
            found |= {name for name in _kept(node) if name.startswith("self.")}
        return found

    @cached_property
    def _functions(self) -> dict[str, Function]:
        found = [node for node in ast.walk(self._tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        return {node.name: node for node in found}

    def use(self, function: Function) -> _Use:
        """What a function does, with the functions and methods of the file that it calls."""
        whole, seen, left = _Use(), set[str](), [function]
        while left:
            node = left.pop()
            one = _use(node, self.containers)
            whole.changed |= one.changed
            whole.read |= one.read
            left += [self._functions[name] for name in sorted(one.calls - seen) if name in self._functions]
            seen |= one.calls
        return whole


def _kept(node: ast.AST) -> Iterator[str]:
    """The names to which a statement assigns a container."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or not _is_container(node.value):
        return
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if name := dotted(target):
            yield name


def _is_container(value: ast.AST | None) -> bool:
    return isinstance(value, _LITERALS) or (isinstance(value, ast.Call) and dotted(value.func) in _CONTAINERS)


def _use(function: Function, containers: set[str]) -> _Use:
    use = _Use()
    changing = set[int]()
    for node in ast.walk(function):
        target = _changed(node)
        if target is not None and dotted(target) in containers:
            use.changed.add(dotted(target))
            # A method such as setdefault() and pop() reads as well, if its result is used.
            if not isinstance(node, ast.Call):
                changing.add(id(target))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and (of := _changed(node.value)) is not None:
            changing.add(id(of))
        if isinstance(node, ast.Call):
            use.calls.add(dotted(node.func).removeprefix("self."))
    for node in ast.walk(function):
        if isinstance(node, ast.Name | ast.Attribute) and dotted(node) in containers and id(node) not in changing:
            use.read.add(dotted(node))
    return use


def _changed(node: ast.AST) -> ast.AST | None:
    """What a node changes: ``pending`` of ``pending[key] = 1``, ``del pending[key]`` and ``pending.add(key)``."""
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        return node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _CHANGING:
        return node.func.value
    if isinstance(node, ast.AugAssign):
        return node.target.value if isinstance(node.target, ast.Subscript) else node.target
    return None


def _kept_between_events(platform: Platform) -> Iterator[Fault]:
    uses: dict[tuple[str, str], dict[str, _Use]] = defaultdict(dict)
    memories: dict[str, _Memory] = {}
    for described, subscription in platform.handlers:
        found = platform.code.definition(subscription.reaction.function)
        if found:
            file, function = found
            memory = memories.setdefault(file.path, _Memory(file))
            uses[file.path, described.service][described.name] = memory.use(function)
    for handlers in uses.values():
        yield from _faults(platform, handlers)


def _faults(platform: Platform, handlers: dict[str, _Use]) -> Iterator[Fault]:
    for name, use in handlers.items():
        for container in sorted(use.read):
            writers = sorted(other for other, its in handlers.items() if container in its.changed)
            heard = {kind for writer in writers for kind in platform.subscriptions[writer].patterns}
            if len(heard | set(platform.subscriptions[name].patterns)) > 1 and writers:
                text = (
                    f"it reads {container}, which {' and '.join(writers)} fills from {', '.join(sorted(heard))}: the "
                    f"order of these events is not known, and each worker process has a {container} of its own"
                )
                yield Fault(name, text, platform.spot_of(name))


def _without_a_key(platform: Platform) -> Iterator[Fault]:
    for described, subscription in platform.handlers:
        sequential = subscription.sequential
        if sequential is None:
            continue
        for kind, name in sequential.fields.items():
            kinds = json_types(sequential.classes[kind], name) - {"string", "integer"}
            if kinds:
                what = "can be missing" if "null" in kinds else f"can be of the JSON type {' or '.join(sorted(kinds))}"
                text = f"its key {name} of {kind} {what}; such an event waits for no other, and none waits for it"
                yield Fault(described.name, text, platform.spot_of(described.name))


RULES = (
    Rule(
        "CH501",
        "a handler relies on what another event has left in memory",
        "Events of different types arrive in any order, and in any process of the worker.",
        "wait for both events with @app.join, or keep the state in a database, and let each handler work without it",
        _kept_between_events,
        ERROR,
    ),
    Rule(
        "CH502",
        "an event that is to be handled in turn can have no key",
        "Events without a key are handled in any order, and at the same time.",
        'make the field a text or a whole number, and required; or write sequential_by="subject"',
        _without_a_key,
    ),
)
