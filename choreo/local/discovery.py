"""Find the services of a package: which module holds which service."""

import ast
import importlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from celery import Celery

from choreo.errors import ChoreoError

#: Modules that are scripts or tests: importing them does more than declaring a service.
SKIPPED = ("__main__", "conftest", "test", "tests")


class DiscoveryError(ChoreoError):
    """A package cannot be used as a package of services. The message names it and the way out."""


@dataclass(frozen=True)
class FoundService:
    """A service and where it is."""

    name: str
    module: str
    attribute: str

    @property
    def target(self) -> str:
        """What `celery -A` needs to be told."""
        return self.module if self.attribute == "app" else f"{self.module}:{self.attribute}"


def find_services(package: str) -> dict[str, FoundService]:
    """
    Import a package and all its modules, and return the services that they define, by name.

    A service counts where it is made, not where it is only imported.
    A module that is no package is searched alone.
    Scripts (`__main__`) and tests are not imported.
    """
    found: dict[str, FoundService] = {}
    for module in _modules(package):
        here = list(_services_in(module))
        if len(here) > 1:
            names = " and ".join(service.name for service in here)
            raise DiscoveryError(f"{module.__name__} defines {names}. A worker runs one service: give each its module.")
        for service in here:
            other = found.setdefault(service.name, service)
            if other is not service:
                raise DiscoveryError(
                    f"{other.module} and {service.module} both define a service named {service.name!r}. "
                    "They would take each other's events: rename one."
                )
    if not found:
        raise DiscoveryError(
            f"No module of {package!r} defines a service. One is made like this: app = choreo.Service('payment')."
        )
    return dict(sorted(found.items()))


def _modules(package: str) -> Iterator[ModuleType]:
    root = _import(package)
    yield root
    for info in pkgutil.iter_modules(getattr(root, "__path__", ()), f"{package}."):
        last = info.name.rpartition(".")[2]
        if last not in SKIPPED and not last.startswith("test_"):
            yield from _modules(info.name) if info.ispkg else [_import(info.name)]


def _import(name: str) -> ModuleType:
    # A package written a moment ago (a test, a generator) may be missing from the import system's caches.
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise DiscoveryError(
                f"There is no package or module {name!r} here. "
                "Give its dotted name, and start in the directory that holds it."
            ) from error
        raise DiscoveryError(_blame(name, error)) from error
    except Exception as error:
        raise DiscoveryError(_blame(name, error)) from error


def _blame(name: str, error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{name} cannot be imported: {type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})"


def _services_in(module: ModuleType) -> Iterator[FoundService]:
    imported = _imported_names(module)
    seen: set[int] = set()
    for attribute, value in vars(module).items():
        # type() rather than isinstance(), which a lazy proxy such as celery.current_app answers for whatever
        # app happens to be current.
        if attribute in imported or id(value) in seen or not issubclass(type(value), Celery):
            continue
        seen.add(id(value))
        name = getattr(value, "service_name", None)
        if isinstance(name, str):
            yield FoundService(name, module.__name__, attribute)


def _imported_names(module: ModuleType) -> set[str]:
    """Return the names that the module's source imports, at any depth: its guests, not its own."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module.__name__]))
    except (OSError, TypeError, SyntaxError):
        # No source, such as a namespace package or a compiled module: then everything in it is its own.
        return set()
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {alias.asname or alias.name.partition(".")[0] for node in imports for alias in node.names}
