"""The service of the command line: finds the broker and the store, and explains errors of either."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
from kombu.transport import TRANSPORT_ALIASES

from choreo.errors import (
    DeadLetterError,
    DeclarationError,
    EventTooLargeError,
    JoinError,
    PublishError,
    StoreError,
)
from choreo.service import Service

F = TypeVar("F", bound=Callable[..., Any])

_BROKERS = frozenset(TRANSPORT_ALIASES) | {"valkey", "valkeys"}
_STORES = frozenset({"redis", "rediss", "valkey", "valkeys", "sentinel", "unix", "memory"})


@dataclass(frozen=True)
class Where:
    """The options `--broker` and `--store` of a command group. A command's own options go before them."""

    broker: str | None = None
    store: str | None = None


def connecting(command: F) -> F:
    """Decorator: adds `--broker` and `--store` to a command. Without them, celeryconfig.py names both."""
    # No `envvar`: click would read it for the command as well, and that value would hide the option of the group.
    store = click.option("--store", metavar="URL", help="The store, if not the broker.  [env var: CHOREO_STORE_URL]")
    broker = click.option("--broker", metavar="URL", help="The broker.  [env var: CHOREO_BROKER_URL]")
    return broker(store(command))


def speaking(command: Callable[..., None]) -> Callable[..., None]:
    """
    Decorator: passes a service, ``app``, to the command, and adds `--broker` and `--store` to its options.

    An error of the broker or the store becomes one line, with the URL and a remedy.
    """

    @wraps(command)
    def speak(*args: Any, broker: str | None, store: str | None, **options: Any) -> None:
        group = click.get_current_context().find_object(Where) or Where()
        app = command_line_service(
            broker or group.broker or os.environ.get("CHOREO_BROKER_URL"),
            store or group.store or os.environ.get("CHOREO_STORE_URL"),
        )
        with _explained_errors(app):
            command(app, *args, **options)

    return connecting(speak)


def command_line_service(broker: str | None, store: str | None) -> Service:
    """Return a service without handlers, for announcing events and for work on dead letters and joins."""
    app = Service("command_line")
    if broker:
        app.conf.broker_url = _checked(broker, "broker", _BROKERS, "redis://host:6379/0 or amqp://user:password@host/")
    if store:
        app.conf.choreo_store_url = _checked(store, "store", _STORES, "redis://host:6379/0")
    return app


def broker_of(app: Service) -> str:
    """Return the URL of the broker, without passwords."""
    from choreo.broker.connections import joined

    return _shown(joined(app.conf.broker_write_url) or "amqp://")


@contextmanager
def _explained_errors(app: Service) -> Iterator[None]:
    try:
        yield
    except EventTooLargeError:
        raise
    except PublishError as error:
        way_out = "Is this the right broker?" if app.publisher.unheard else "Start it, or correct"
        raise click.ClickException(
            f"{_sentence(error)} The broker is {broker_of(app)}. {way_out} --broker / CHOREO_BROKER_URL."
        ) from error
    except StoreError as error:
        beside = "" if app.conf.get("choreo_store_url") else "--broker / CHOREO_BROKER_URL, or "
        raise click.ClickException(
            f"{_sentence(error)} The store is {_store_of(app)}. Start it, or correct {beside}"
            f"--store / CHOREO_STORE_URL."
        ) from error
    except DeclarationError as error:
        if "has no broker" in str(error):
            raise click.ClickException(f"{_sentence(error)} Or name it here: --broker / CHOREO_BROKER_URL.") from error
        if "choreo_store_url" not in str(error):
            raise
        raise click.ClickException(f"{_sentence(error)} Or name it here: --store / CHOREO_STORE_URL.") from error
    except (DeadLetterError, JoinError) as error:
        raise click.ClickException(str(error)) from error


def _store_of(app: Service) -> str:
    return _shown(app.conf.get("choreo_store_url")) if app.conf.get("choreo_store_url") else broker_of(app)


def _sentence(error: Exception) -> str:
    return f"{str(error).rstrip('.')}."


def _checked(url: str, kind: str, schemes: frozenset[str], example: str) -> str:
    # Several URLs of one broker are separated by semicolons.
    if not all(_is_url(part, schemes) for part in url.split(";")):
        raise click.BadParameter(
            f"{_shown(url)!r} is not a URL of a {kind}. Write one like {example}.",
            param_hint=f"--{kind} / CHOREO_{kind.upper()}_URL",
        )
    return url


def _is_url(text: str, schemes: frozenset[str]) -> bool:
    scheme = text.partition(":")[0].partition("+")[0]
    try:
        return scheme in schemes and ("://" in text or text == "memory:") and urlsplit(text).port != 0
    except ValueError:  # the port is not a number
        return False


def _shown(url: str) -> str:
    return ";".join(_without_password(part) for part in url.split(";"))


def _without_password(url: str) -> str:
    """Return a URL without its password. Works for a mistyped URL, too: its password must not get into a log."""
    before, separator, rest = url.rpartition("://")
    access, at, place = rest.rpartition("@")
    user = re.match(r"[\w.-]*", access)
    # The query of a URL may hold a password, too.
    return f"{before}{separator}{user[0] if user and at else ''}{':**@' if at else ''}{place.partition('?')[0]}"
