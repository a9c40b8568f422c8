"""Quiet: what is not shown of errors, of what the user's modules print, and of logs."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress

import click

from choreo.errors import ChoreoError


@contextmanager
def quiet() -> Iterator[None]:
    """Let neither an error nor a print of the user's modules reach the shell, which would offer it."""
    with (
        open(os.devnull, "w") as nothing,  # noqa: PTH123
        suppress(ChoreoError, click.ClickException),
        redirect_stdout(nothing),
        redirect_stderr(nothing),
    ):
        yield


@contextmanager
def unlogged(name: str) -> Iterator[None]:
    """
    Keep the records of this logger from the terminal, where the command gives its own answer.

    Python prints a warning to stderr if no logging is configured. A configured log gets the records.
    """
    logger, nowhere = logging.getLogger(name), logging.NullHandler()
    before = logger.propagate
    logger.addHandler(nowhere)
    logger.propagate = before and bool(logging.root.handlers)
    try:
        yield
    finally:
        logger.removeHandler(nowhere)
        logger.propagate = before


@contextmanager
def spoken(tell: Callable[[str], None]) -> Iterator[None]:
    """
    Give the warnings of choreo to ``tell``, as sentences of the command. A configured log gets them instead.

    Python would print each in one long line.
    """
    logger = logging.getLogger("choreo")
    if logging.root.handlers or logger.handlers:
        yield
        return
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: tell(handler.format(record))  # type: ignore[method-assign]
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
