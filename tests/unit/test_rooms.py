"""The rooms of choreo/: which may import which. The contracts are in pyproject.toml, under [tool.importlinter]."""

import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import ModuleType

import grimp
import pytest

import choreo
from choreo.cached import cached_property

ROOT = Path(__file__).parents[2]
DESCRIBED = (type, property, cached_property)


def test_every_contract_is_kept() -> None:
    # In a process of its own: it configures logging, and switches off every logger that there is.
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_imports_itself_through_others() -> None:
    graph = grimp.build_graph("choreo", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}

    try:
        order = list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(reversed(error.args[1]))}")

    assert len(order) == len(imports)


def modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(choreo.__path__, "choreo."):
        yield import_module(info.name)


def public(owner: ModuleType | type, where: str) -> Iterator[tuple[str, object]]:
    """The classes and functions that a module or a class defines itself, without an underscore, and those in them."""
    for name, value in vars(owner).items():
        plain = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        is_ours = isinstance(plain, (property, cached_property)) or getattr(plain, "__module__", "") == where
        if name.startswith("_") or not is_ours or not (inspect.isroutine(plain) or isinstance(plain, DESCRIBED)):
            continue
        yield f"{owner.__name__}.{name}", getattr(owner, name) if isinstance(owner, type) else plain
        if isinstance(plain, type):
            yield from public(plain, where)


def test_every_module_and_every_public_name_has_a_docstring() -> None:
    """A method that overrides another may share its docstring."""
    silent = [module.__name__ for module in modules() if not module.__doc__]
    for module in modules():
        silent += [name for name, value in public(module, module.__name__) if not inspect.getdoc(value)]

    assert not silent, "without a docstring:\n" + "\n".join(sorted(silent))
