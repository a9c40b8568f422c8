"""
Finds the services and the events of a package, and the modules that define them.

It looks at the source first: see `choreo.local.source`. Only modules that declare handlers are imported.
"""

import ast
import importlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from celery import Celery

from choreo.cached import cached_property
from choreo.errors import ChoreoError, DeclarationError
from choreo.events import naming
from choreo.local.source import Source, argument, dotted, packages_here, source_of, sources_of
from choreo.places import is_library, place

#: A module, and the name of something in it.
Place = tuple[str, str]

_SERVICE: Place = ("choreo", "Service")
_EVENT: Place = ("choreo", "Event")
#: Modules of the standard library define no events, so they are not read.
_STANDARD = frozenset(sys.stdlib_module_names)


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


@dataclass
class Package:
    """
    The source of a package, or of one module. Nothing of it is imported.

    Raises `DiscoveryError` if there is none of this name.
    """

    name: str
    sources: dict[str, Source] = field(init=False, repr=False)
    #: Sources of other packages from which this one imports.
    _others: dict[str, Source | None] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        # The import caches may not know a package that was written a moment ago (by a test or a generator).
        importlib.invalidate_caches()
        self.sources = {source.name: source for source in sources_of(self.name)}
        if not self.sources:
            raise DiscoveryError(
                f"There is no package or module {self.name!r} here. "
                "Give its dotted name, and run the command in the directory that holds it."
            )

    @cached_property
    def homes(self) -> set[Place]:
        """The variables that hold something on which a handler or a task is declared."""
        places = {place for source in self.sources.values() for place in self._declared_on(source)}
        return {(module, name) for module, name in places if module in self.sources}

    @property
    def targets(self) -> list[str]:
        """The services of the package with handlers, as `celery -A` takes them."""
        return sorted(module if name == "app" else f"{module}:{name}" for module, name in self.homes)

    @cached_property
    def silent(self) -> dict[str, str]:
        """The services without handlers, which can only publish, with their modules. A worker would do nothing."""
        return {
            _text(argument(call, 0, "name")) or name: source.name
            for source in self.sources.values()
            for name, calls in source.assigned.items()
            if (source.name, name) not in self.homes
            for call in calls
            if self._is_a(source, dotted(call.func), _SERVICE)
        }

    @cached_property
    def modules(self) -> list[str]:
        """The modules to import for the services: those that declare handlers, and those without a source."""
        homes = {module for module, _ in self.homes}
        return [name for name, source in self.sources.items() if name in homes or source.tree is None]

    @cached_property
    def event_modules(self) -> list[str]:
        """The modules that define classes of events."""
        return [
            name
            for name, source in self.sources.items()
            if any(self._is_a(source, made, _EVENT) for made in source.classes)
        ]

    @cached_property
    def root(self) -> Path:
        """The directory in which Python finds the package."""
        source = source_of(self.name.partition(".")[0])
        assert source is not None
        return (Path(source.places[0]) if source.places else Path(source.path or ".")).absolute().parent

    @cached_property
    def events(self) -> dict[str, Place]:
        """The types of events that the package defines or imports, with the classes of their newest versions."""
        found: dict[str, Place] = {}
        for source in self.sources.values():
            for name in [*source.imports, *source.classes]:
                place = self._resolved(source.name, name)
                kind = self._event_type(place) if place is not None else ""
                if place is None or not kind:
                    continue
                if kind not in found or self._version(place) >= self._version(found[kind]):
                    found[kind] = place
        return found

    @cached_property
    def announces(self) -> dict[str, set[str]]:
        """Each service that the package makes, with the types that its ``announces=`` names."""
        found: dict[str, set[str]] = {}
        for source in self.sources.values():
            for calls in source.assigned.values():
                for call in calls:
                    if self._is_a(source, dotted(call.func), _SERVICE):
                        given = [option.value for option in call.keywords if option.arg == "announces"]
                        named = found.setdefault(_text(argument(call, 0, "name")), set())
                        named |= self._types(source, (part for value in given for part in ast.walk(value)))
        found.pop("", None)
        return found

    @cached_property
    def publishes(self) -> dict[str, set[str]]:
        """Services with the types of the events that the source announces: ``app.publish(OrderPlaced(...))``."""
        found: dict[str, set[str]] = {}
        for source in self.sources.values():
            for receiver, event in source.published:
                service = self._service_at(self._resolved(source.name, receiver))
                made = (part.func for part in ast.walk(event) if isinstance(part, ast.Call))
                types = self._types(source, made)
                if service and types:
                    found.setdefault(service, set()).update(types)
        return found

    @cached_property
    def publishing(self) -> dict[str, dict[tuple[int, int], str]]:
        """File → the line and column of each call that announces → its service."""
        found: dict[str, dict[tuple[int, int], str]] = {}
        for source in self.sources.values():
            for receiver, call in source.publishing:
                service = self._service_at(self._resolved(source.name, receiver))
                if service and source.path:
                    found.setdefault(source.path, {})[call.lineno, call.col_offset] = service
        return found

    def _service_at(self, place: Place | None) -> str:
        """The name of the service that this variable holds; "" if it holds none, or only running the code tells."""
        home = self._source(place[0]) if place else None
        calls = home.assigned.get(place[1], []) if home and place else []
        names = [
            _text(argument(call, 0, "name")) for call in calls if home and self._is_a(home, dotted(call.func), _SERVICE)
        ]
        return next(iter(names), "")

    def _types(self, source: Source, nodes: Iterable[ast.AST]) -> set[str]:
        """The types of the event classes that these expressions name."""
        places = [self._resolved(source.name, dotted(node)) for node in nodes]
        return {kind for place in places if place is not None and (kind := self._event_type(place))}

    def _event_type(self, place: Place) -> str:
        """The type of the event class at this place; "" if it is none, or an abstract one."""
        source = self._source(place[0])
        made = source.classes.get(place[1]) if source else None
        if source is None or made is None or not self._is_a(source, place[1], _EVENT):
            return ""
        options = {option.arg: option.value for option in made.keywords}
        abstract = options.get("abstract")
        if isinstance(abstract, ast.Constant) and abstract.value:
            return ""
        with suppress(DeclarationError):  # the import of its module says it, with the line
            return _text(options.get("type")) or naming.type_of(made.name)
        return ""

    def _version(self, place: Place) -> int:
        """The version of the event class at this place, as far as the source tells."""
        source = self._source(place[0])
        made = source.classes.get(place[1]) if source else None
        given = [option.value for option in made.keywords if option.arg == "version"] if made else []
        value = given[0].value if given and isinstance(given[0], ast.Constant) else 1
        return value if isinstance(value, int) else 1

    def _declared_on(self, source: Source) -> Iterator[Place]:
        for name in source.declarations:
            place = self._resolved(source.name, name)
            if place is not None:
                yield place
        for name, calls in source.assigned.items():
            if source.names_itself(name) or any(self._declares(call) for call in calls):
                yield source.name, name
        for call in source.calls:
            if _last_of(call) in self._declaring:
                places = (self._resolved(source.name, dotted(given)) for given in call.args)
                yield from filter(None, places)

    def _declares(self, call: ast.Call) -> bool:
        """True if this call may make a service whose handlers are declared elsewhere: by it, or by other modules."""
        others = {option.arg for option in call.keywords} & {"include", "imports"}
        return bool(others) or _last_of(call) in self._declaring

    @cached_property
    def _declaring(self) -> set[str]:
        return {name for source in self.sources.values() for name in source.declaring}

    def _is_a(self, source: Source, name: str, base: Place, depth: int = 9) -> bool:
        """True if this name is ``base`` of choreo, or a class that derives from it."""
        place = self._resolved(source.name, name)
        if place is None or not depth:
            return False
        if place[0].partition(".")[0] == base[0]:
            return place[1] == base[1]
        home = self._source(place[0])
        made = home.classes.get(place[1]) if home else None
        if home is None or made is None:
            return False
        return any(self._is_a(home, dotted(parent), base, depth - 1) for parent in made.bases)

    def _resolved(self, module: str, name: str, depth: int = 9) -> Place | None:
        """The place where this name of a module is defined; None if no source tells."""
        source = self._source(module)
        first, _, rest = name.partition(".")
        if not name or not depth or source is None:
            return None
        if not rest and (first in source.assigned or first in source.classes):
            return module, first
        origin, attribute = source.imports.get(first) or source.imports.get("*", ("", ""))
        full = ".".join(filter(None, [origin, first if attribute == "*" else attribute, rest]))
        before, _, last = full.rpartition(".")
        if not before or before.partition(".")[0] in _STANDARD:
            return None
        if before.partition(".")[0] == "choreo":
            return before, last
        return self._resolved(before, last, depth - 1)

    def _source(self, module: str) -> Source | None:
        if module in self.sources:
            return self.sources[module]
        if module not in self._others:
            self._others[module] = source_of(module)
        return self._others[module]


def find_services(package: str) -> dict[str, FoundService]:
    """
    Return the services that a package and its modules define, by name. Their modules are imported.

    A module is imported only if its source declares handlers or tasks of a service that it makes, or if another module
    declares them for it. So neither a script that publishes when it is imported nor a service that only publishes runs.
    A service belongs to the module that makes it, not to a module that imports it.
    If the name is that of a module, only this module is searched.
    Scripts (`__main__`) and tests are not searched.
    Raises `DiscoveryError` when such a module cannot be imported, or the package has no such service, or two of one
    name.
    """
    return services_in(Package(package))


def services_in(package: Package) -> dict[str, FoundService]:
    """See `find_services`."""
    found = services_of(package, map(imported, package.modules))
    if not found:
        raise no_services(package)
    return found


def services_of(package: Package, modules: Iterable[ModuleType]) -> dict[str, FoundService]:
    """The services that these modules of a package make, by name. Raises `DiscoveryError` for two of one name."""
    found: dict[str, FoundService] = {}
    for module in modules:
        here = list(_services_in(module, package))
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
    return dict(sorted(found.items()))


def no_services(package: Package) -> DiscoveryError:
    """The error for a package that has nothing to run."""
    if package.silent:
        names = " and ".join(f"{name} ({module})" for name, module in package.silent.items())
        return DiscoveryError(
            f"No service of {package.name!r} has a handler, so there is nothing to run: {names} can only publish. "
            f"Declare one like this: @app.on(OrderPlaced)."
        )
    return DiscoveryError(
        f"No module of {package.name!r} defines a service. Define one like this: app = choreo.Service('payment'), with "
        f"a handler: @app.on(OrderPlaced)."
    )


def only_package(directory: Path) -> str:
    """The one package or module in a directory that has services. Raises `DiscoveryError` if there is not just one."""
    found = packages_with_services(directory)
    if len(found) == 1:
        return found[0]
    if found:
        raise DiscoveryError(f"Several packages here have services: {', '.join(found)}. Name one of them.")
    raise DiscoveryError(
        "No package in this directory has services. Name one, or run the command in the directory that holds it."
    )


def packages_with_services(directory: Path) -> list[str]:
    """The packages and modules in a directory that define services with handlers. None of them is imported."""
    return [package.name for package in _packages_in(directory) if package.homes]


def packages_with_events(directory: Path) -> dict[str, Package]:
    """The packages and modules in a directory that define or import events. None of them is imported."""
    return {package.name: package for package in _packages_in(directory) if package.events}


def _packages_in(directory: Path) -> Iterator[Package]:
    # Python may not look for modules there.
    return (Package(name) for name in packages_here(directory) if source_of(name) is not None)


def imported(name: str) -> ModuleType:
    """Import a module. Raises `DiscoveryError`, which names the faulty line, if that fails."""
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise DiscoveryError(blame(name, error)) from error


def blame(name: str, error: Exception) -> str:
    """The error, and the line of the user's code that led to it, and not the line of a library that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_of_library(frame.filename)] or frames
    file, line = own[-1].filename, own[-1].lineno
    if isinstance(error, SyntaxError) and error.filename:
        file, line = error.filename, error.lineno
    if isinstance(error, DeclarationError) and error.place:
        return f"{name} cannot be imported: {type(error).__name__}: {error}"
    text = error.msg if isinstance(error, SyntaxError) else error
    return f"{name} cannot be imported: {type(error).__name__}: {text} ({place(file, line or 0)})"


def _is_of_library(file: str) -> bool:
    # A service that is installed, in site-packages, has no other frames, and then the last one is named.
    return file.startswith("<") or is_library(file)


def _services_in(module: ModuleType, package: Package) -> Iterator[FoundService]:
    source = package.sources[module.__name__]
    declared = [vars(module).get(name) for home, name in package.homes if home == source.name]
    seen: set[int] = set()
    for attribute, value in vars(module).items():
        # type(), not isinstance(): for a lazy proxy such as celery.current_app, isinstance() tests the current app.
        if attribute in source.imports or id(value) in seen or not issubclass(type(value), Celery):
            continue
        seen.add(id(value))
        name = getattr(value, "service_name", None)
        if isinstance(name, str) and (source.tree is None or any(value is one for one in declared)):
            yield FoundService(name, module.__name__, attribute)


def _last_of(call: ast.Call) -> str:
    return dotted(call.func).rpartition(".")[2]


def _text(node: ast.AST | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
