"""Reads the packages and services that are to be checked, and notes what is refused at import."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from choreo.check.code import NOWHERE, Code, Spot
from choreo.check.platform import Platform, declared_events
from choreo.check.settings import Settings
from choreo.errors import DeclarationError
from choreo.events.event import Event
from choreo.local.discovery import (
    DiscoveryError,
    FoundService,
    Package,
    imported,
    no_services,
    only_package,
    services_of,
)
from choreo.local.reading import declaring_modules, defined_events, silent_services
from choreo.local.target import find_service
from choreo.service import Service


@dataclass(frozen=True)
class Refusal:
    """A module that cannot be imported, because choreo refuses a declaration."""

    module: str
    error: DeclarationError

    @property
    def file(self) -> str:
        """The file of the declaration; "" if it is not known."""
        return self.error.place.rpartition(":")[0]

    @property
    def line(self) -> int:
        """The line of the declaration; 0 if it is not known."""
        return int(self.error.place.rpartition(":")[2] or 0)


def read(targets: Sequence[str], directory: Path, settings: Settings) -> tuple[Platform, list[Refusal]]:
    """Import what the targets name. Raises `DiscoveryError` for what is neither a platform nor refused by choreo."""
    sources: list[Package] = []
    apps: dict[str, Service] = {}
    homes: dict[str, Spot] = {}
    refusals: list[Refusal] = []
    for target in targets or [only_package(directory)]:
        if ":" in target:
            app = _service(target, refusals)
            apps |= {app.service_name: app} if app else {}
            continue
        source = Package(target)
        sources.append(source)
        for name, found in services_of(source, _modules(source, refusals)).items():
            if isinstance(found.app, Service):
                apps[name] = found.app
                homes[name] = _home(source, found)
    if not apps and not refusals and not any(source.announces for source in sources):
        raise no_services(sources[0])
    is_whole = len(targets) != 1 or any(one.sources[one.name].is_package for one in sources)
    return replace(_platform(tuple(apps.values()), sources, homes, settings), is_whole=is_whole), refusals


def _service(target: str, refusals: list[Refusal]) -> Service | None:
    try:
        return find_service(target)
    except DiscoveryError as error:
        refusals.append(_refusal(target, error))
        return None


def _modules(source: Package, refusals: list[Refusal]) -> Iterator[ModuleType]:
    """The modules that define events or declare handlers."""
    for name in declaring_modules(source):
        try:
            with redirect_stdout(sys.stderr):
                module = imported(name)
        except DiscoveryError as error:
            refusals.append(_refusal(name, error))
        else:
            yield module


def _refusal(name: str, error: DiscoveryError) -> Refusal:
    """The refusal behind an error. Raises the error if it is another one."""
    if isinstance(error.__cause__, DeclarationError):
        return Refusal(name, error.__cause__)
    raise error


def _home(source: Package, found: FoundService) -> Spot:
    module = source.sources.get(found.module)
    calls = module.assigned.get(found.attribute, []) if module else []
    return Spot(module.path or "", calls[0].lineno) if module and calls else NOWHERE


def _platform(
    apps: tuple[Service, ...], sources: Sequence[Package], homes: dict[str, Spot], settings: Settings
) -> Platform:
    descriptions = [app.describe() for app in apps]
    for source in sources:
        descriptions += silent_services(source, {described.service for described in descriptions})
    seen: dict[str, set[str]] = {}
    for source in sources:
        for service, types in source.publishes.items():
            seen.setdefault(service, set()).update(types)
    return Platform(
        apps,
        tuple(descriptions),
        tuple(_classes(apps, {source.name for source in sources})),
        settings,
        Code(),
        tuple(one.path for source in sources for one in source.sources.values() if one.path),
        homes,
        seen,
        {path: calls for source in sources for path, calls in source.publishing.items()},
        tuple(kind for source in sources for kind in source.events),
    )


def _classes(apps: Iterable[Service], packages: Collection[str]) -> Iterator[type[Event]]:
    """The classes that the packages define, and those that their declarations name."""
    yield from defined_events(packages)
    yield from declared_events(apps)
