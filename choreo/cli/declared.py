"""The options that name code: which services' declarations a command reads."""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click

from choreo.cli import completion
from choreo.cli.app import namespace_of
from choreo.cli.where import Where, services
from choreo.service import Service

#: Decorator: the option --code of a command, ``targets``.
code_option = click.option(
    "--code",
    "targets",
    metavar="APP",
    multiple=True,
    shell_complete=services,
    help="Read the code of this service, named as for `celery -A`.",
)


def declaring(command: Callable[..., None]) -> Callable[..., None]:
    """
    Decorator: passes the services whose code is read, ``declared``, in place of the options that name them.

    Without an option it is the service of `-A`, or those of the only package in this directory.
    """

    @wraps(command)
    @click.option(
        "--package", metavar="NAME", shell_complete=completion.packages, help="Read the code of this package."
    )
    @code_option
    def declare(app: Service, *args: Any, package: str | None, targets: tuple[str, ...], **options: Any) -> None:
        where = Where.of(click.get_current_context())
        if where.app and not (package or targets):
            targets = (where.app,)
        command(app, *args, declared=_services(app, package, targets), **options)

    return declare


def _services(app: Service, package: str | None, targets: Sequence[str]) -> list[Service]:
    from choreo.local.discovery import DiscoveryError, find_services, only_package
    from choreo.local.target import find_service

    try:
        found = [find_service(target) for target in targets]
        if package or not targets:
            found += [one.app for one in find_services(package or only_package(Path.cwd())).values()]
    except DiscoveryError as error:
        raise click.UsageError(f"{error} Name the code: -A APP, --code APP or --package NAME.") from error
    declared = {service.service_name: service for service in found if isinstance(service, Service)}
    for service in declared.values():
        _check_place(app, service)
    return [declared[name] for name in sorted(declared)]


def _check_place(app: Service, service: Service) -> None:
    """Raise `ClickException` if the service works in another namespace than the one in which the command looks."""
    # As a worker does: handlers may be declared in the modules that `include` names.
    service.loader.import_default_modules()
    its, ours = service.runtime.topology.namespace, app.runtime.topology.namespace
    if its != ours:
        raise click.ClickException(
            f"{service.service_name} works in {namespace_of(service)}, and this command looks in {namespace_of(app)}. "
            f"Name it: --namespace {its or repr('')}."
        )
