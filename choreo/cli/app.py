"""The service of the command line: finds the broker and the store, and explains errors of either."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
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
    StoryError,
)
from choreo.masking import shown_url
from choreo.printing import lines
from choreo.redis_client.refusals import is_explained
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
        broker = broker or group.broker or os.environ.get("CHOREO_BROKER_URL")
        store = store or group.store or os.environ.get("CHOREO_STORE_URL")
        # A celeryconfig.py, and modules that the command imports, may read them there.
        with _in_environment(CHOREO_BROKER_URL=broker, CHOREO_STORE_URL=store):
            app = command_line_service(broker, store)
            with _explained_errors(app):
                command(app, *args, **options)

    return connecting(speak)


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print foreign text, with escapes for what would act on the terminal, or could not be printed at all."""
    click.echo(lines(text), err=err, nl=nl)


def command_line_service(broker: str | None, store: str | None) -> Service:
    """Return a service without handlers, for announcing events and for work on dead letters and joins."""
    app = Service("command_line")
    if broker:
        app.conf.broker_url = _checked(broker, "broker", _BROKERS, "redis://host:6379/0 or amqp://user:password@host/")
    if store:
        app.conf.choreo_store_url = _checked(store, "store", _STORES, "redis://host:6379/0")
    return app


@contextmanager
def _in_environment(**variables: str | None) -> Iterator[None]:
    """Context manager: set these environment variables. None leaves one as it is."""
    before = dict(os.environ)
    os.environ.update({name: value for name, value in variables.items() if value})
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]


def check_names(app: Service, given: Iterable[str], known: Iterable[str], kind: str = "service or handler") -> None:
    """Raise `ClickException` for a name that is none of the ``known`` handlers nor, unless ``kind``, their services."""
    names = set(known)
    if kind == "service or handler":
        names |= {name.partition(".")[0] for name in names}
    for name in given:
        if name in names:
            continue
        guess = get_close_matches(name, names, n=1)
        hint = f"Did you mean {guess[0]}?" if guess else f"Known are: {', '.join(sorted(names)) or 'none'}."
        raise click.ClickException(
            f"No {kind} named {name!r} is known. {hint} A service makes itself known when its worker starts. The "
            f"store is {_store_of(app)}{_namespace_of(app)}."
        )


def _namespace_of(app: Service) -> str:
    namespace = app.conf.get("choreo_namespace")
    return f", and the namespace {namespace!r}" if namespace else ""


def tell_undeclared(app: Service, handlers: Iterable[str]) -> None:
    """Print to stderr which of these handlers no worker declares any more."""
    if gone := sorted(set(handlers) & set(app.runtime.undeclared.names())):
        click.echo(
            f"\nNo worker declares {', '.join(gone)} any more: renamed or removed? A dead letter can go to another "
            f"handler: `choreo dead-letters replay ID --to SERVICE.HANDLER`.",
            err=True,
        )


def tell_asleep(app: Service, handler: str) -> None:
    """Print to stderr that no worker of the handler's service lives, if that is so."""
    service = handler.partition(".")[0]
    listening = app.runtime.store.listening(service)
    if listening is not None and not listening.workers:
        click.echo(f"Note: no worker of {service} runs at the moment. This waits for one.", err=True)


def shown_moment(moment: datetime, near: str) -> str:
    """The moment in a column of a table: in the format ``near``, or as a date with its year if it is far away."""
    is_near = moment - datetime.now(UTC) < timedelta(days=300)
    return f"{moment:{near}}" if is_near else f"{moment:%Y-%m-%d}"


def broker_of(app: Service) -> str:
    """Return the URL of the broker, without passwords."""
    from choreo.broker.connections import joined

    return shown_url(joined(app.conf.broker_write_url) or "amqp://")


@contextmanager
def _explained_errors(app: Service) -> Iterator[None]:
    try:
        yield
    except EventTooLargeError:
        raise
    except PublishError as error:
        way_out = "Is this the right broker? " if app.publisher.unheard else _start_it(error)
        raise click.ClickException(
            f"{_sentence(error)} The broker is {broker_of(app)}. {way_out}--broker / CHOREO_BROKER_URL."
        ) from error
    except StoreError as error:
        beside = "" if app.conf.get("choreo_store_url") else "--broker / CHOREO_BROKER_URL, or "
        raise click.ClickException(
            f"{_sentence(error)} The store is {_store_of(app)}. {_start_it(error)}{beside}--store / CHOREO_STORE_URL."
        ) from error
    except DeclarationError as error:
        if "has no broker" in str(error):
            raise click.ClickException(f"{_sentence(error)} Or name it here: --broker / CHOREO_BROKER_URL.") from error
        if "Say where it is: choreo_store_url" not in str(error):
            raise
        raise click.ClickException(f"{_sentence(error)} Or name it here: --store / CHOREO_STORE_URL.") from error
    except (DeadLetterError, JoinError, StoryError) as error:
        raise click.ClickException(lines(str(error))) from error
    except click.ClickException as error:
        error.message = lines(error.message)  # type: ignore[misc]
        raise


def _start_it(error: Exception) -> str:
    return "Or correct " if is_explained(str(error)) else "Start it, or correct "


def _store_of(app: Service) -> str:
    return shown_url(app.conf.get("choreo_store_url")) if app.conf.get("choreo_store_url") else broker_of(app)


def _sentence(error: Exception) -> str:
    return f"{lines(str(error)).rstrip('.')}."


def _checked(url: str, kind: str, schemes: frozenset[str], example: str) -> str:
    # Several URLs of one broker are separated by semicolons.
    if not all(_is_url(part, schemes) for part in url.split(";")):
        raise click.BadParameter(
            f"{shown_url(url)!r} is not a URL of a {kind}. Write one like {example}.",
            param_hint=f"--{kind} / CHOREO_{kind.upper()}_URL",
        )
    return url


def _is_url(text: str, schemes: frozenset[str]) -> bool:
    scheme = text.partition(":")[0].partition("+")[0]
    try:
        return scheme in schemes and ("://" in text or text == "memory:") and urlsplit(text).port != 0
    except ValueError:  # the port is not a number
        return False
