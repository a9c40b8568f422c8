"""The map of a platform from its code alone: without a broker, a store or a worker."""

from collections.abc import Sequence
from typing import Any

from choreo.local.discovery import Package, services_in
from choreo.local.reading import silent_services
from choreo.local.target import find_service
from choreo.observe.map import Map, drawn


def blueprint(package: str | None = None, targets: Sequence[str] = ()) -> Map:
    """
    The map of the services of a package, and of those that ``targets`` name as celery's `-A` does.

    The modules that declare handlers are imported. Of the others, which may be scripts, the source is read: which
    events they announce. Raises `DiscoveryError`.
    """
    descriptions = [find_service(target).describe() for target in targets]
    if package is None:
        return drawn(descriptions)
    source = Package(package)
    apps: list[Any] = [found.app for found in services_in(source).values()] if source.homes else []
    # An object that stands in for a service, such as a proxy, may not describe itself.
    descriptions += [app.describe() for app in apps if hasattr(app, "describe")]
    descriptions += silent_services(source, {described.service for described in descriptions})
    return drawn(descriptions, seen=source.publishes, types=source.events)
