"""
Completion in the shell: the types of events, and the names of services and handlers.

``_CHOREO_COMPLETE=bash_source choreo`` prints the script for bash; there are also zsh_source and fish_source. Here an
error offers nothing: the command itself explains it. Types of events are read from the source, so no module runs.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import click

from choreo.cli import app as cli
from choreo.errors import ChoreoError


def event_types(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The types of events that the package, or any package of this directory, knows, and that begin like this."""
    from choreo.local.discovery import Package, packages_with_events

    with _quiet():
        package = _option(context, "package")
        packages = [Package(package)] if package else packages_with_events(Path.cwd()).values()
        return sorted({name for known in packages for name in known.events if name.startswith(incomplete)})
    return []


def packages(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """The packages of this directory that know events, and that begin like this."""
    from choreo.local.discovery import packages_with_events

    with _quiet():
        return [name for name in packages_with_events(Path.cwd()) if name.startswith(incomplete)]
    return []


def services_and_handlers(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The services and handlers that the store knows, and that begin like this."""
    with _quiet():
        app = cli.command_line_service(
            _option(context, "broker") or os.environ.get("CHOREO_BROKER_URL"),
            _option(context, "store") or os.environ.get("CHOREO_STORE_URL"),
        )
        handlers = app.runtime.store.handlers()
        names = {*handlers, *(handler.partition(".")[0] for handler in handlers)}
        return sorted(name for name in names if name.startswith(incomplete))
    return []


def _option(context: click.Context | None, name: str) -> str | None:
    """The value of an option of the command, or of its group."""
    while context is not None:
        if context.params.get(name):
            return str(context.params[name])
        context = context.parent
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Let neither an error nor a print of the user's modules reach the shell, which would offer it."""
    with (
        open(os.devnull, "w") as nothing,  # noqa: PTH123
        suppress(ChoreoError, click.ClickException),
        redirect_stdout(nothing),
        redirect_stderr(nothing),
    ):
        yield
