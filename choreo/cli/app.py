"""The service as which the command line speaks, and the options that say where."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from choreo.service import Service

F = TypeVar("F", bound=Callable[..., Any])


def connecting(command: F) -> F:
    """Add `--broker` and `--store` to a command. Without them, celeryconfig.py in this directory says where."""
    store = click.option(
        "--store",
        metavar="URL",
        envvar="CHOREO_STORE_URL",
        show_envvar=True,
        help="The store, if it is not the broker.",
    )
    broker = click.option("--broker", metavar="URL", envvar="CHOREO_BROKER_URL", show_envvar=True, help="The broker.")
    return broker(store(command))


def command_line_service(broker: str | None, store: str | None) -> Service:
    """A service without handlers, which announces and looks after dead letters."""
    app = Service("command_line")
    if broker:
        app.conf.broker_url = broker
    if store:
        app.conf.choreo_store_url = store
    return app
