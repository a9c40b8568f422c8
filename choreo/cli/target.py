"""The service that `-A` names: found and imported as `celery -A` does, with errors of one line."""

import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import click
from celery.app.utils import find_app

from choreo.errors import ChoreoError
from choreo.service import Service


class NoServiceError(click.ClickException):
    """`-A` names no service. The message is one line with the way out; the exit code is 2."""

    exit_code = 2


def find_service(target: str) -> Service:
    """
    Return the service that ``celery -A TARGET`` finds. TARGET is a module, ``module:attribute``, or a package.

    Its module is imported. What that prints goes to stderr. Raises `NoServiceError` if it cannot be imported, or
    is no service.
    """
    try:
        with redirect_stdout(sys.stderr):
            found = find_app(target)
    except Exception as error:  # the module is the user's, and may raise anything
        raise _refused(_reason(target, error), target) from error
    # type(), not isinstance(): a lazy proxy such as celery.current_app tells the class of what it stands for.
    if issubclass(type(found), Service):
        service: Service = found
        return service
    raise _refused(f"it is {_kind(found)}, and no choreo.Service.", target)


def _reason(target: str, error: Exception) -> str:
    from choreo.local.discovery import blame

    module = target.partition(":")[0]
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module {error.name}. Run the command in the directory that holds it."
    # A module whose import failed is not there afterwards.
    if module in sys.modules and isinstance(error, ModuleNotFoundError) and error.name == target:
        return f"{module} has no {target.partition(':')[2]}."
    if module in sys.modules and isinstance(error, AttributeError):
        return f"{module} makes no service."
    return blame(module, error)


def _refused(reason: str, target: str) -> NoServiceError:
    return NoServiceError(f"-A {target}: {reason}{_hint(target)}")


def _hint(target: str) -> str:
    """The services that the package makes, or any package of this directory, with a space before."""
    from choreo.local.discovery import Package, packages_with_services

    found: list[str] = []
    with suppress(ChoreoError):
        try:
            found = Package(target.partition(":")[0].partition(".")[0]).targets
        except ChoreoError:
            found = [place for name in packages_with_services(Path.cwd()) for place in Package(name).targets]
    others = [place for place in found if place != target]
    return f" Try {' or '.join(f'-A {place}' for place in others[:4])}." if others else ""


def _kind(found: Any) -> str:
    import celery

    return "a Celery app" if issubclass(type(found), celery.Celery) else f"a {type(found).__name__}"
