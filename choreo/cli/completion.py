"""
Completion in the shell: the types of events, the names of services and handlers, and subjects.

``_CHOREO_COMPLETE=bash_source choreo`` prints the script for bash; there are also zsh_source and fish_source. Here an
error offers nothing: the command itself explains it. Types of events are read from the source, so no module runs.
"""

from pathlib import Path

import click

from choreo.cli import app as cli
from choreo.cli.quiet import quiet
from choreo.cli.where import Where


def event_types(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The types of events that the package, or any package of this directory, knows, and that begin like this."""
    from choreo.local.discovery import Package, packages_with_events

    with quiet():
        package = context.params.get("package")
        packages = [Package(package)] if package else packages_with_events(Path.cwd()).values()
        return sorted({name for known in packages for name in known.events if name.startswith(incomplete)})
    return []


def packages(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """The packages of this directory that know events, and that begin like this."""
    from choreo.local.discovery import packages_with_events

    with quiet():
        return [name for name in packages_with_events(Path.cwd()) if name.startswith(incomplete)]
    return []


def services_and_handlers(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The services and handlers that the store knows, and that begin like this."""
    with quiet():
        where = Where.of(context)
        with where.in_environment():
            app = cli.command_line_service(where)
            handlers = app.runtime.store.handlers()
        names = {*handlers, *(handler.partition(".")[0] for handler in handlers)}
        return sorted(name for name in names if name.startswith(incomplete))
    return []


def subjects(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
    """The subjects about which a handler has worked within the last hour, and that begin like this."""
    with quiet():
        where = Where.of(context)
        with where.in_environment():
            store = cli.command_line_service(where).runtime.store
            runs = [run for handler in store.handlers() for run in store.recent(handler, 3600.0, 320)]
        return sorted({run.subject for run in runs if run.subject and run.subject.startswith(begun)})
    return []
