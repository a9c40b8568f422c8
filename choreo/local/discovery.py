"""Finds the services of a package, and the modules that define them."""

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

#: Modules that are scripts or tests. They are not imported: an import would run more than declarations.
SKIPPED = ("__main__", "conftest", "test", "tests")


class DiscoveryError(ChoreoError):
    """A package cannot be used as a package of services. The message names it and the way out."""


@dataclass(frozen=True)
class FoundService:
    """A service and its place."""

    #: The name of the service.
    name: str
    #: The dotted name of its module.
    module: str
    #: The name of the variable that holds it.
    attribute: str

    @property
    def app(self) -> Celery:
        """The service itself. Its module is imported."""
        app: Celery = getattr(sys.modules[self.module], self.attribute)
        return app

    @property
    def target(self) -> str:
        """The argument of `celery -A` for this service."""
        return self.module if self.attribute == "app" else f"{self.module}:{self.attribute}"


def find_services(package: str) -> dict[str, FoundService]:
    """
    Import a package and all its modules, and return the services that they define, by name.

    A service belongs to the module that makes it, not to a module that imports it.
    If the name is that of a module, only this module is searched.
    Scripts (`__main__`) and tests are not imported.
    Raises `DiscoveryError` when the package cannot be imported, defines no service, or two of one name.
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
                    "They would take each other's events. Rename one."
                )
    if not found:
        raise DiscoveryError(
            f"No module of {package!r} defines a service. Define one like this: app = choreo.Service('payment')."
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
    # The import caches may not know a package that was written a moment ago (by a test or a generator).
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise DiscoveryError(
                f"There is no package or module {name!r} here. "
                "Give its dotted name, and run the command in the directory that holds it."
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
        # type(), not isinstance(): for a lazy proxy such as celery.current_app, isinstance() tests the current app.
        if attribute in imported or id(value) in seen or not issubclass(type(value), Celery):
            continue
        seen.add(id(value))
        name = getattr(value, "service_name", None)
        if isinstance(name, str):
            yield FoundService(name, module.__name__, attribute)


def _imported_names(module: ModuleType) -> set[str]:
    """Return the names that the source of the module imports, at any depth."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[module.__name__]))
    except (OSError, TypeError, SyntaxError):
        # There is no source (a namespace package, a compiled module): treat every name as defined here.
        return set()
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {alias.asname or alias.name.partition(".")[0] for node in imports for alias in node.names}
