"""
Reads the modules of a package from their source, and runs none of them.

A module of a package may be a script that publishes events when it is imported. So the tools look here first, and
import only modules that define something.
"""

import ast
import importlib.util
import pkgutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from choreo.cached import cached_property

#: Modules that are scripts or tests. They are neither read nor imported.
SKIPPED = ("__main__", "conftest", "test", "tests")

#: The methods of a service that declare a handler, a story or a task.
_DECLARE = frozenset({"on", "join", "story", "dead_letter", "task"})
#: The methods of a service that announce.
_PUBLISHING = frozenset({"publish", "publish_many", "apublish", "apublish_many"})
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.ClassDef, ast.Lambda)


@dataclass(frozen=True)
class Source:
    """One module, as it is written."""

    #: The dotted name of the module.
    name: str
    #: True if the module is a package.
    is_package: bool
    #: None if the module has no Python source, or a syntax error. Then only an import tells what it defines.
    tree: ast.Module | None
    #: The file; None if there is none.
    path: str | None = None
    #: The directories of a package's modules.
    places: tuple[str, ...] = ()

    @cached_property
    def imports(self) -> dict[str, tuple[str, str]]:
        """Each name that the module imports, at any depth: its module, and its name there ("": the module itself)."""
        found: dict[str, tuple[str, str]] = {}
        for node in self._nodes():
            if isinstance(node, ast.Import):
                for alias in node.names:
                    top = alias.name.partition(".")[0]
                    found[alias.asname or top] = (alias.name if alias.asname else top, "")
            elif isinstance(node, ast.ImportFrom):
                origin = self._absolute(node)
                found |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
        return found

    @cached_property
    def assigned(self) -> dict[str, list[ast.Call]]:
        """Each name that the module assigns outside of functions and classes, with the calls in its value."""
        found: dict[str, list[ast.Call]] = {}
        for node in self._outside():
            if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
                calls = [part for part in ast.walk(node.value) if isinstance(part, ast.Call)]
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                for target in targets:
                    for part in ast.walk(target):
                        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                            found.setdefault(part.id, []).extend(calls)
        return found

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """The classes that the module defines outside of functions and other classes, by name."""
        return {node.name: node for node in self._outside() if isinstance(node, ast.ClassDef)}

    @cached_property
    def declarations(self) -> set[str]:
        """The names on which the module declares handlers: ``app`` of ``@app.on``, or ``shop.app``."""
        return {name for name in map(_declared_on, self._nodes()) if name}

    @cached_property
    def declaring(self) -> set[str]:
        """The functions and classes whose bodies declare a handler: `@app.on` in a function that takes or makes app."""
        return {
            node.name
            for node in self._nodes()
            if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and any(map(_declared_on, _body(node)))
        }

    @cached_property
    def calls(self) -> list[ast.Call]:
        """The calls that an import of the module makes itself. Not those under ``if __name__ == "__main__"``."""
        return [node for node in self._outside() if isinstance(node, ast.Call)]

    @cached_property
    def publishing(self) -> list[tuple[str, ast.Call]]:
        """The calls that may announce, at any depth, each with the name of its object: ``app.publish(...)``."""
        return [
            (dotted(node.func.value), node)
            for node in self._nodes()
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _PUBLISHING
        ]

    @property
    def published(self) -> list[tuple[str, ast.expr]]:
        """What the module announces, at any depth: the name of the service, and the expression of the events."""
        return [(receiver, call.args[0]) for receiver, call in self.publishing if call.args]

    def names_itself(self, name: str) -> bool:
        """True if the module sets ``name.service_name``, as an object does that stands in for a service."""
        return any(
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and node.attr == "service_name"
            and dotted(node.value) == name
            for node in self._outside()
        )

    def _nodes(self) -> Iterator[ast.AST]:
        return ast.walk(self.tree) if self.tree is not None else iter(())

    def _outside(self) -> Iterator[ast.AST]:
        """Every node outside of functions, lambdas and classes; of these, the node itself with its decorators."""
        waiting: list[ast.AST] = list(self.tree.body) if self.tree is not None else []
        while waiting:
            node = waiting.pop(0)
            yield node
            if isinstance(node, _SCOPES):
                waiting += getattr(node, "decorator_list", [])
            elif not _is_main_guard(node):
                waiting += ast.iter_child_nodes(node)

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        parts = parts[: len(parts) - node.level + self.is_package]
        return ".".join([*parts, *([node.module] if node.module else [])])


def source_of(name: str) -> Source | None:
    """The source of a module or a package, by its dotted name; None if there is none of this name."""
    spec = _spec(name)
    if spec is None:
        return None
    places = tuple(spec.submodule_search_locations or ())
    is_package = spec.submodule_search_locations is not None
    origin = spec.origin if spec.has_location else None
    if origin is None:
        # A package without __init__.py runs nothing. Anything else is compiled into Python.
        return Source(name, is_package, ast.Module([], []) if is_package else None, places=places)
    return Source(name, is_package, _tree(Path(origin)), origin, places)


def sources_of(package: str) -> list[Source]:
    """The sources of a package and of its modules at all depths, or of one module. Empty if there is none."""
    root = source_of(package)
    if root is None:
        return []
    found = [root]
    for info in pkgutil.iter_modules(root.places, f"{package}."):
        if not is_skipped(info.name):
            found += sources_of(info.name)
    return found


def packages_here(directory: Path) -> list[str]:
    """The names of the packages and modules in a directory, without tests and scripts."""
    found = {info.name for info in pkgutil.iter_modules([str(directory)])}
    # A package needs no __init__.py.
    found |= {place.name for place in directory.iterdir() if place.name.isidentifier() and any(place.glob("*.py"))}
    return sorted(name for name in found if not is_skipped(name) and name != "choreo")


def is_skipped(module: str) -> bool:
    """True for a module that is a script or a test: see `SKIPPED`."""
    last = module.rpartition(".")[2]
    return last in SKIPPED or last.startswith("test_")


def dotted(node: ast.AST) -> str:
    """``shop.app`` for such an expression; "" for one that is not made of names."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def argument(call: ast.Call, position: int, name: str) -> ast.expr | None:
    """The argument of a call that has this position or this name."""
    if position < len(call.args):
        return call.args[position]
    return next((given.value for given in call.keywords if given.arg == name), None)


def _spec(name: str) -> ModuleSpec | None:
    """Find a module without importing the packages above it, as `importlib.util.find_spec` would."""
    first, *others = name.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    path = first
    for part in others:
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = f"{path}.{part}"
        spec = _spec_below(path, list(spec.submodule_search_locations))
    return spec


def _spec_below(path: str, places: list[str]) -> ModuleSpec | None:
    try:
        return PathFinder.find_spec(path, places)
    except KeyError:
        # It has no __init__.py, and the package above it is not imported: importlib wants that for its search.
        spec = ModuleSpec(path, None, is_package=True)
        spec.submodule_search_locations = [str(Path(place) / path.rpartition(".")[2]) for place in places]
        return spec


def _tree(path: Path) -> ast.Module | None:
    if path.suffix != ".py":
        return None
    try:
        return ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None


def _declared_on(node: ast.AST) -> str:
    """The name on which this node declares a handler; "" if it is no declaration."""
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        return next(filter(None, map(_receiver, node.decorator_list)), "")
    # app.on(OrderPlaced)(charge), app.dead_letter(tell), hear = app.on; but not ", ".join(names).
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Call):
        return _receiver(node.func)
    if isinstance(node, ast.Attribute) and node.attr != "join" and isinstance(node.ctx, ast.Load):
        return _receiver(node)
    return ""


def _receiver(node: ast.AST) -> str:
    method = node.func if isinstance(node, ast.Call) else node
    if isinstance(method, ast.Attribute) and method.attr in _DECLARE:
        return dotted(method.value)
    return ""


def _body(node: ast.AST) -> Iterable[ast.AST]:
    return (inner for statement in getattr(node, "body", []) for inner in ast.walk(statement))


def _is_main_guard(node: ast.AST) -> bool:
    if not (isinstance(node, ast.If) and isinstance(node.test, ast.Compare)):
        return False
    sides = [node.test.left, *node.test.comparators]
    return any(isinstance(side, ast.Name) and side.id == "__name__" for side in sides)
