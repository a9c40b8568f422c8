"""The code of the checked modules: where a class or a function is, and what its lines say. Read once, and not run."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choreo.cached import cached_property
from choreo.declare.reaction import code_of

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Spot:
    """A place in the code, and the lines around it in which a comment counts for it."""

    #: The file, as Python names it; "" if there is none.
    file: str = ""
    #: The line from 1; 0 if it is not known.
    line: int = 0
    #: The first and the last line of the declaration: the decorators, and the lines of the signature.
    first: int = 0
    last: int = 0

    def covers(self, line: int) -> bool:
        """True for a line of the declaration, and for the one above it."""
        return (self.first or self.line) - 1 <= line <= (self.last or self.line)


NOWHERE = Spot()


@dataclass(frozen=True)
class File:
    """One file of Python."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """What it says; nothing if it cannot be parsed."""
        try:
            return ast.parse(self.text)
        except (SyntaxError, ValueError, RecursionError):
            return ast.Module([], [])

    @cached_property
    def classes(self) -> dict[str, ast.ClassDef]:
        """The classes at any depth, by their qualified names."""
        return {name: node for name, node in _named(self.tree, "") if isinstance(node, ast.ClassDef)}

    @cached_property
    def functions(self) -> dict[int, Function]:
        """The functions at any depth, by the line of their first decorator, or of the `def` if they have none."""
        return {first_line(node): node for _, node in _named(self.tree, "") if isinstance(node, _FUNCTIONS)}

    def spot(self, node: Function | ast.ClassDef) -> Spot:
        """The place of a function or a class."""
        return Spot(self.path, node.lineno, first_line(node), max(node.body[0].lineno - 1, node.lineno))


class Code:
    """Files of Python, each read once."""

    def __init__(self) -> None:
        self._files: dict[str, File | None] = {}

    def file(self, path: str) -> File | None:
        """The file; None if it cannot be read."""
        if path not in self._files:
            try:
                self._files[path] = File(path, Path(path).read_text())
            except (OSError, ValueError):
                self._files[path] = None
        return self._files[path]

    @property
    def read(self) -> list[File]:
        """The files that were read so far."""
        return [file for file in self._files.values() if file is not None]

    def of_class(self, cls: type) -> Spot:
        """The place of a class statement; of ``PageRead[int]`` that of ``PageRead``."""
        cls = getattr(cls, "__pydantic_generic_metadata__", {}).get("origin") or cls
        module = sys.modules.get(cls.__module__)
        file = self.file(getattr(module, "__file__", None) or "")
        node = file.classes.get(cls.__qualname__) if file else None
        return file.spot(node) if file and node else NOWHERE

    def of_function(self, function: Callable[..., Any]) -> Spot:
        """The place of a function, without the decorators that wrap it."""
        found = self.definition(function)
        return found[0].spot(found[1]) if found else NOWHERE

    def definition(self, function: Callable[..., Any]) -> tuple[File, Function] | None:
        """The file and the definition of a function; None if no source tells."""
        code = getattr(inspect.unwrap(code_of(function)), "__code__", None)
        file = self.file(code.co_filename) if code else None
        node = file.functions.get(code.co_firstlineno) if file and code else None
        return (file, node) if file and node else None


def first_line(node: Function | ast.ClassDef) -> int:
    """The line of the first decorator, or of the statement if there is none."""
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


def _named(node: ast.AST, before: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """Every class and function in a node with its qualified name, as Python makes it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
            name = f"{before}{child.name}"
            yield name, child
            yield from _named(child, f"{name}." if isinstance(child, ast.ClassDef) else f"{name}.<locals>.")
        else:
            yield from _named(child, before)
