"""Quiet: what completion in the shell does with errors and with what the user's modules print."""

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
