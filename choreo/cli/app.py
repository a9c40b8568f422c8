"""The service of the command line: finds the broker and the store, and explains errors of either."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import click

from choreo.cli.folding import told
from choreo.cli.quiet import spoken
from choreo.cli.where import Where, connecting
from choreo.errors import (
    ChoreoError,
    DeadLetterError,
    DeclarationError,
    EventTooLargeError,
    JoinError,
    PauseError,
    PublishError,
    RerunError,
    ScheduleError,
    StoreError,
    StoryError,
    TopologyError,
)
from choreo.guesses import hint
from choreo.masking import shown_url
from choreo.printing import lines
from choreo.redis_client.refusals import is_explained
from choreo.service import Service

#: The name of the service of the command line.
COMMAND_LINE = "command_line"


class NoServiceError(click.ClickException):
    """`-A` names no service. The message is one line with the way out; the exit code is 2."""

    exit_code = 2


def speaking(command: Callable[..., None]) -> Callable[..., None]:
    """
    Decorator: passes a service, ``app``, to the command, and adds the options of `choreo.cli.where` to its own.

    An error of the broker or the store becomes one line, with the URL and a remedy.
    """

    @wraps(command)
    def speak(*args: Any, **options: Any) -> None:
        where = Where.of(click.get_current_context())
        with where.in_environment():
            app = command_line_service(where)
            with _explained_errors(app, where), spoken(tell):
                command(app, *args, **options)

    return connecting(speak)


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print foreign text, with escapes for what would act on the terminal, or could not be printed at all."""
    click.echo(lines(text), err=err, nl=nl)


def tell(text: str) -> None:
    """Print sentences to stderr, as `say` does; on a terminal they are folded to its width."""
    say(told(text), err=True)


def command_line_service(where: Where) -> Service:
    """Return a service without handlers, for announcing events and for work on dead letters and joins."""
    where.check()
    return _configured_as(where.app, where) if where.app else _configured_here(where)


def _configured_as(target: str, where: Where) -> Service:
    """A service with the whole configuration of another one: also TLS, transport options and terms."""
    from choreo.local.discovery import DiscoveryError
    from choreo.local.target import find_service

    try:
        model = find_service(target)
    except DiscoveryError as error:
        raise NoServiceError(f"-A {lines(str(error))}") from error
    app = Service(COMMAND_LINE, config=None, terms=model.terms)
    app.conf = model.conf
    _load(app, f"the configuration of {target}")
    app.conf.update(where.settings())
    return app


def _configured_here(where: Where) -> Service:
    app = Service(COMMAND_LINE)
    source = "celeryconfig"
    if app.runtime.is_unconfigured and os.environ.get("DJANGO_SETTINGS_MODULE"):
        # As Celery's guide for Django has it.
        app.config_from_object("django.conf:settings", namespace="CELERY")
        source = "Django's configuration"
    # Before it is read: then it is checked with them.
    app.conf.update(where.settings())
    _load(app, source)
    return app


def _load(app: Service, source: str) -> None:
    """Read the configuration now. Raises `ClickException` for an error that is not choreo's."""
    try:
        app.conf.get("broker_url")
    except ChoreoError:
        raise
    except Exception as error:  # the configuration is the user's
        raise click.ClickException(f"{source} cannot be read: {_sentence(error)}") from error


def check_names(app: Service, given: Iterable[str], known: Iterable[str], kind: str = "service or handler") -> None:
    """Raise `ClickException` for a name that is none of the ``known`` handlers nor, unless ``kind``, their services."""
    names = set(known)
    if kind == "service or handler":
        names |= {name.partition(".")[0] for name in names}
    for name in given:
        if name in names:
            continue
        raise click.ClickException(
            f"No {kind} named {name!r} is known. {hint(name, sorted(names), 'Known are:')} A service makes itself "
            f"known when its worker starts. The store is {place_of(app)}."
        )


def check_named(what: str, hint: str = "SUBJECT|ID") -> None:
    """Raise `BadParameter` for an empty text: a variable of the shell that is not set."""
    if not what.strip():
        raise click.BadParameter("it is empty. Name a subject or an id, such as ORD-1.", param_hint=hint)


def is_known(app: Service) -> bool:
    """True if the store knows a service that is not the command line itself."""
    return bool(set(app.runtime.store.services()) - {COMMAND_LINE})


def nobody(app: Service) -> str:
    """Say that no service is known, and where: it may be the wrong place."""
    return f"No service is known at {place_of(app)}. A service makes itself known when its worker starts."


def namespace_of(app: Service) -> str:
    """The namespace as every command names it: ``namespace 'staging'``, or ``no namespace``."""
    namespace = app.conf.get("choreo_namespace")
    return f"namespace {namespace!r}" if namespace else "no namespace"


def place_of(app: Service) -> str:
    """The URL of the store, without passwords, and the namespace."""
    return f"{_store_of(app)} ({namespace_of(app)})"


def tell_undeclared(app: Service, handlers: Iterable[str]) -> None:
    """Print to stderr which of these handlers no worker declares any more."""
    if gone := sorted(set(handlers) & set(app.runtime.undeclared.names())):
        tell(
            f"\nNo worker declares {', '.join(gone)} any more: renamed or removed? A dead letter can go to another "
            f"handler: `choreo dead-letters replay ID --to SERVICE.HANDLER`."
        )


def tell_asleep(app: Service, handler: str) -> None:
    """Print to stderr that no worker of the handler's service lives, or that the handler is paused, if that is so."""
    service = handler.partition(".")[0]
    pause = app.runtime.store.pause_of(handler)
    if pause is not None and pause.is_stop:
        tell(f"Note: {handler} is paused. This waits in its queue until it is resumed: `choreo resume {handler}`.")
        return
    listening = app.runtime.store.listening(service)
    if listening is not None and not listening.workers:
        tell(f"Note: no worker of {service} runs at the moment. This waits for one.")


def shown_moment(moment: datetime, near: str) -> str:
    """The moment in a column of a table: in the format ``near``, or as a date with its year if it is far away."""
    is_near = moment - datetime.now(UTC) < timedelta(days=300)
    return f"{moment:{near}}" if is_near else f"{moment:%Y-%m-%d}"


def broker_of(app: Service) -> str:
    """Return the URL of the broker, without passwords."""
    from choreo.broker.connections import joined

    return shown_url(joined(app.conf.broker_write_url) or "amqp://")


@contextmanager
def _explained_errors(app: Service, where: Where) -> Iterator[None]:
    try:
        yield
    except EventTooLargeError:
        raise
    except PublishError as error:
        way_out = "Is this the right broker? " if app.publisher.unheard else _start_it(error)
        raise click.ClickException(
            f"{_sentence(error)} The broker is {broker_of(app)}. {way_out}{where.remedy('broker')}."
        ) from error
    except StoreError as error:
        beside = "" if app.conf.get("choreo_store_url") else f"{where.remedy('broker')}, or "
        raise click.ClickException(
            f"{_sentence(error)} The store is {_store_of(app)}. {_start_it(error)}{beside}{where.remedy('store')}."
        ) from error
    except DeclarationError as error:
        if "has no broker" in str(error):
            raise _no_broker(error, where) from error
        if "Say where it is: choreo_store_url" not in str(error):
            raise
        raise click.ClickException(f"{_sentence(error)} Or name it here: {where.remedy('store')}.") from error
    except (DeadLetterError, JoinError, PauseError, RerunError, ScheduleError, StoryError, TopologyError) as error:
        raise click.ClickException(lines(str(error))) from error
    except click.ClickException as error:
        error.message = lines(error.message)  # type: ignore[misc]
        raise


def _no_broker(error: Exception, where: Where) -> click.ClickException:
    if where.app:
        return click.ClickException(
            f"{where.app} has no broker: its configuration does not set broker_url. Set it there, as its workers need "
            f"it too (CELERY_BROKER_URL in Django's settings), or name it here: --broker redis://host:6379/0"
        )
    return click.ClickException(
        f"{_sentence(error)} Or name it here: {where.remedy('broker')}, or the service that knows it: -A shop.payment."
    )


def _start_it(error: Exception) -> str:
    return "Or correct " if is_explained(str(error)) else "Start it, or correct "


def _store_of(app: Service) -> str:
    return shown_url(app.conf.get("choreo_store_url")) if app.conf.get("choreo_store_url") else broker_of(app)


def _sentence(error: Exception) -> str:
    return f"{lines(str(error)).rstrip('.')}."
