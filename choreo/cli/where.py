"""
The options that say where a command looks: `-A`, `--broker`, `--store` and `--namespace`.

Each may stand before the name of the command or behind it; the last one counts. Without an option, the first of these
counts that there is:

1. With `-A APP` (or CHOREO_APP): the configuration of that service, whatever it reads. No other variable is read.
2. CHOREO_BROKER_URL, CHOREO_STORE_URL and CHOREO_NAMESPACE.
3. The module `celeryconfig`; or, if there is none, the settings of Django that DJANGO_SETTINGS_MODULE names, with the
   prefix CELERY.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from choreo.cli.quiet import quiet

F = TypeVar("F", bound=Callable[..., Any])

_STORES = frozenset({"redis", "rediss", "valkey", "valkeys", "sentinel", "unix", "memory"})
#: Celery's variables. It reads them before any configuration.
_CELERYS = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")
_VARIABLES = {"broker": "CHOREO_BROKER_URL", "store": "CHOREO_STORE_URL", "namespace": "CHOREO_NAMESPACE"}
_HELP = {
    "app": "The service whose configuration counts, as for `celery -A`.  [env var: CHOREO_APP]",
    "broker": "The broker.  [env var: CHOREO_BROKER_URL]",
    "store": "The store, if not the broker.  [env var: CHOREO_STORE_URL]",
    "namespace": "The namespace, if there are several.  [env var: CHOREO_NAMESPACE]",
}
_PLACE = "choreo.where."


@dataclass(frozen=True)
class Where:
    """What the options say, and the variables that stand in for them. None: nothing is said."""

    app: str | None = None
    broker: str | None = None
    store: str | None = None
    namespace: str | None = None
    #: Names of the options on the command line.
    options: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def of(cls, context: click.Context) -> Where:
        """What is said on the command line of this context, and in the environment."""
        given = {name: context.meta[_PLACE + name] for name in _HELP if _PLACE + name in context.meta}
        app = given.get("app") or os.environ.get("CHOREO_APP") or None
        said = {} if app else {name: os.environ.get(variable) or None for name, variable in _VARIABLES.items()}
        return cls(**said | given | {"app": app}, options=frozenset(given))

    def remedy(self, name: str) -> str:
        """The places where a user corrects the URL of the broker or the store."""
        beside = f"the configuration of {self.app}" if self.app else _VARIABLES[name]
        return f"--{name} / {beside}"

    def check(self) -> None:
        """Raise `BadParameter` for a value that cannot work."""
        # Imported here: `choreo --help` reads this file, and needs no Celery.
        from kombu.transport import TRANSPORT_ALIASES

        from choreo.declare.settings import is_namespace

        brokers = frozenset(TRANSPORT_ALIASES) | {"valkey", "valkeys"}
        _check_url(self.broker, "broker", brokers, "redis://host:6379/0 or amqp://user:password@host/")
        _check_url(self.store, "store", _STORES, "redis://host:6379/0")
        if self.namespace is not None and not is_namespace(self.namespace):
            raise click.BadParameter(
                f"{self.namespace!r} cannot begin the name of a queue. It takes no spaces, * and #. Write it like "
                f"staging.",
                param_hint="--namespace / CHOREO_NAMESPACE",
            )

    @contextmanager
    def in_environment(self) -> Iterator[None]:
        """Context manager: set the variables. A celeryconfig.py, and modules that a command imports, may read them."""
        before = dict(os.environ)
        os.environ.update(self._variables())
        try:
            yield
        finally:
            for name in (*_VARIABLES.values(), *_CELERYS):
                os.environ.pop(name, None)
                if name in before:
                    os.environ[name] = before[name]

    def _variables(self) -> dict[str, str]:
        said = {variable: getattr(self, name) for name, variable in _VARIABLES.items()}
        if "broker" in self.options:
            said |= {name: self.broker for name in _CELERYS if name in os.environ}
        return {name: value for name, value in said.items() if value is not None}

    def settings(self) -> dict[str, str]:
        """The settings that this names: they go before those of the configuration."""
        said = {
            # A configuration may name two URLs, one for each direction.
            **dict.fromkeys(("broker_url", "broker_read_url", "broker_write_url"), self.broker or None),
            "choreo_store_url": self.store or None,
            "choreo_namespace": self.namespace,
        }
        return {name: value for name, value in said.items() if value is not None}


def connecting(command: F) -> F:
    """Decorator: adds the options to a command, or to a group of commands. `Where.of` reads them."""
    # No `envvar`: click would read it for the command as well, and that value would hide the option of the group.
    for name, text in reversed(_HELP.items()):
        flags = ("-A", "--app") if name == "app" else (f"--{name}",)
        metavar = {"app": "APP", "namespace": "NAME"}.get(name, "URL")
        complete = services if name == "app" else None
        option = click.option(
            *flags, metavar=metavar, help=text, expose_value=False, callback=_note, shell_complete=complete
        )
        command = option(command)
    return command


def services(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Completion in the shell: the services of the packages in this directory, as `-A` takes them."""
    from choreo.local.discovery import Package, packages_with_services

    with quiet():
        found = [place for name in packages_with_services(Path.cwd()) for place in Package(name).targets]
        return [place for place in found if place.startswith(incomplete)]
    return []


def _note(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    # The groups of commands are read before the command, and share this dict with it.
    if value is not None:
        context.meta[f"{_PLACE}{parameter.name}"] = value
    return value


def _check_url(url: str | None, kind: str, schemes: frozenset[str], example: str) -> None:
    from choreo.masking import shown_url

    # Several URLs of one broker are separated by semicolons.
    if url and not all(_is_url(part, schemes) for part in url.split(";")):
        raise click.BadParameter(
            f"{shown_url(url)!r} is not a URL of a {kind}. Write one like {example}.",
            param_hint=f"--{kind} / CHOREO_{kind.upper()}_URL",
        )


def _is_url(text: str, schemes: frozenset[str]) -> bool:
    scheme = text.partition(":")[0].partition("+")[0]
    try:
        return scheme in schemes and ("://" in text or text == "memory:") and urlsplit(text).port != 0
    except ValueError:  # the port is not a number
        return False
