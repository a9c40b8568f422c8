"""What a package declares: which of its modules are imported to learn it, and what the source tells of the others."""

from collections.abc import Collection, Iterator

from choreo.declare.description import ServiceDescription
from choreo.events.event import Event, event_classes
from choreo.local.discovery import Package


def declaring_modules(package: Package) -> list[str]:
    """The modules to import: those that define classes of events, and those that declare handlers."""
    return list(dict.fromkeys([*package.event_modules, *package.modules]))


def defined_events(packages: Collection[str]) -> Iterator[type[Event]]:
    """The classes of events that the imported modules of these packages define."""
    for event in event_classes():
        if any(f"{event.__module__}.".startswith(f"{package}.") for package in packages):
            yield event


def silent_services(
    package: Package, described: Collection[str], *, published: bool = False
) -> list[ServiceDescription]:
    """
    What the source tells of the services of a package that are not described yet: they have no handlers.

    That is the types that their ``announces=`` names; with ``published`` also those that the source publishes, and then
    only of the services that announce something.
    """
    found = []
    for name in sorted({*package.announces, *(package.publishes if published else ())} - set(described)):
        types = {*package.announces.get(name, ()), *(package.publishes.get(name, ()) if published else ())}
        if types or not published:
            found.append(ServiceDescription(name, announces=tuple(sorted(types)) or None))
    return found
