"""The map of a platform from its code alone: without a broker, a store or a worker."""

from collections.abc import Sequence
from typing import Any

from celery.app.utils import find_app

from choreo.declare.description import ServiceDescription
from choreo.local.discovery import DiscoveryError, Package, services_in
from choreo.observe.map import Map, drawn
from choreo.service import Service


def blueprint(package: str | None = None, targets: Sequence[str] = ()) -> Map:
    """
    The map of the services of a package, and of those that ``targets`` name as celery's `-A` does.

    The modules that declare handlers are imported. Of the others, which may be scripts, the source is read: which
    events they announce. Raises `DiscoveryError`.
    """
    descriptions = [_service(target).describe() for target in targets]
    if package is None:
        return drawn(descriptions)
    source = Package(package)
    apps: list[Any] = [found.app for found in services_in(source).values()] if source.homes else []
    # An object that stands in for a service, such as a proxy, may not describe itself.
    descriptions += [app.describe() for app in apps if hasattr(app, "describe")]
    declared = {described.service for described in descriptions}
    descriptions += [
        ServiceDescription(service, announces=tuple(sorted(types)) or None)
        for service, types in source.announces.items()
        if service not in declared
    ]
    return drawn(descriptions, seen=source.publishes, types=source.events)


def _service(target: str) -> Service:
    try:
        app = find_app(target)
    except Exception as error:  # the module is the user's, and may raise anything
        raise DiscoveryError(f"-A {target}: {type(error).__name__}: {error}") from error
    if not isinstance(app, Service):
        raise DiscoveryError(f"-A {target}: this is no choreo.Service.")
    return app
