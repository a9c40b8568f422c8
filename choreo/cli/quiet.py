"""Quiet: what is not shown of errors, of what the user's modules print, and of logs."""

import logging
import os
from collections.abc import Iterator
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
    logger.addHandler(nowhere)
    try:
        yield
    finally:
        logger.removeHandler(nowhere)
