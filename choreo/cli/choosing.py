"""The options that choose dead letters: their handler, cause, time and subject."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any

import click

from choreo.cli import completion
from choreo.cli.app import check_names
from choreo.cli.spans import SPAN
from choreo.service import Service


class Since(click.ParamType[str]):
    """How long ago (``2h``), or a moment (``2026-11-30T07:10``), in UTC unless it names a time zone."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text itself, once it is known to be one of both."""
        if value and self._moment(value) is None:
            try:
                SPAN.convert(value, param, ctx)
            except click.BadParameter:
                self.fail(f"{value!r} is no time. Write it like 2h or 2026-11-30T07:10.", param, ctx)
        return value

    @classmethod
    def read(cls, value: str) -> datetime | timedelta:
        """The moment, or how long ago."""
        return cls._moment(value) or timedelta(seconds=SPAN.convert(value, None, None))

    @staticmethod
    def _moment(value: str) -> datetime | None:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Choice:
    """What the options say."""

    names: tuple[str, ...] = ()
    cause: str = ""
    since: str = ""
    subject: str = ""

    def __bool__(self) -> bool:
        return bool(self.names or self.cause or self.since or self.subject)

    @property
    def given(self) -> dict[str, Any]:
        """The arguments of the methods of `DeadLetters`, without the names."""
        since = Since.read(self.since) if self.since else None
        return {"cause": self.cause, "since": since, "subject": self.subject}

    def options(self) -> Iterator[str]:
        """The options as they were written, without the names, quoted for a shell."""
        for name in ("cause", "since", "subject"):
            if text := getattr(self, name):
                yield f"--{name} {shlex.quote(text)}"

    def check(self, app: Service) -> None:
        """Raise `ClickException` for the name of no service and no handler."""
        check_names(app, self.names, app.dead_letters.handlers)


def choosing(names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Decorator: passes a `Choice` to a command, below the service.

    ``names`` says how services and handlers are named: "arguments", or "options".
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def choose(app: Service, names: Sequence[str], cause: str, since: str, subject: str, **more: Any) -> None:
            chosen = Choice(tuple(names), cause, since, subject)
            chosen.check(app)
            command(app, chosen, **more)

        for option in reversed((_ARGUMENTS if names == "arguments" else _OPTION, _CAUSE, _SINCE, _SUBJECT)):
            choose = option(choose)
        return choose

    return decorate


_ARGUMENTS = click.argument(
    "names", nargs=-1, metavar="[SERVICE|HANDLER]...", shell_complete=completion.services_and_handlers
)
_OPTION = click.option(
    "--handler",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only those of this handler or service. Can be repeated.",
    shell_complete=completion.services_and_handlers,
)
_CAUSE = click.option(
    "--cause", metavar="CAUSE", default="", help="Only those with this type of error, or of this group."
)
_SINCE = click.option(
    "--since", type=Since(), metavar="TIME", default="", help="Only newer ones: 30m, 2h, 1d, or 2026-11-30T07:10 (UTC)."
)
_SUBJECT = click.option("--subject", metavar="TEXT", default="", help="Only those with an event about it, like ORD-1.")
