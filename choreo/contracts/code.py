"""The contracts of the code in this directory: its services and the classes of its events are imported."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from choreo.contracts.contract import Contract, ContractError, Contracts
from choreo.declare.description import ServiceDescription
from choreo.declare.models import described_models
from choreo.events.event import Event, event_classes
from choreo.events.naming import OWN_TYPES
from choreo.local.discovery import DiscoveryError, Package, imported, packages_with_services, services_in
from choreo.local.reading import declaring_modules, defined_events, silent_services
from choreo.local.target import find_service
from choreo.places import place


def contracts_of_code(packages: Sequence[str], targets: Sequence[str] = ()) -> Contracts:
    """
    The contracts of these packages, and of the services that ``targets`` name as celery's `-A` does.

    Of a package, the modules that declare handlers or define events are imported. Without both: the packages of this
    directory. Raises `ContractError`.
    """
    try:
        found = packages or ([] if targets else packages_with_services(Path.cwd()))
        if not found and not targets:
            raise ContractError(
                "No package in this directory has services. Name one (--package NAME), or run the command in the "
                "directory that holds it."
            )
        apps: list[Any] = [find_service(target) for target in targets]
        known = [Package(name) for name in found]
        apps += [app for package in known for app in _apps(package)]
    except DiscoveryError as error:
        raise ContractError(str(error)) from error
    services = [app.describe() for app in apps]
    for package in known:
        services += silent_services(package, {service.service for service in services}, published=True)
    classes = _classes(found, services)
    described = described_models(classes)
    return Contracts(
        "this checkout",
        [Contract(described[event], inspect.cleandoc(event.__doc__ or ""), place_of(event)) for event in classes],
        sorted(services, key=lambda service: service.service),
        {(event.event_type, step.version): step.place for event in classes for step in event.event_upcasters},
        {app.service_name: app.runtime.version for app in apps if app.runtime.version},
    )


def place_of(cls: type) -> str:
    """Where a class is defined: ``shop/events.py:12``, from the current directory; "" if no source tells."""
    try:
        file, line = inspect.getsourcefile(cls), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        return ""
    return place(file, line) if file else ""


def _apps(package: Package) -> list[Any]:
    """The services of a package. Its modules that declare handlers or define events are imported."""
    for module in declaring_modules(package):
        imported(module)
    apps: list[Any] = [found.app for found in services_in(package).values()] if package.homes else []
    # An object that stands in for a service, such as a proxy, may not describe itself.
    return [app for app in apps if hasattr(app, "describe")]


def _classes(packages: Sequence[str], services: Sequence[ServiceDescription]) -> list[type[Event]]:
    """The event classes of these packages, and those of others that the services use; sorted by type and version."""
    used = {(model.event, model.version) for service in services for model in service.models or ()}
    others = [event for event in event_classes() if (event.event_type, event.event_version) in used]
    # Several classes of one version may be there in tests; that of the package goes first.
    classes = [*reversed(others), *defined_events(packages)]
    found = {(event.event_type, event.event_version): event for event in classes}
    return [found[key] for key in sorted(found) if key[0] not in OWN_TYPES]
