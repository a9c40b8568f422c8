"""The service that a text names as for `celery -A`: found and imported as Celery does, with errors of one line."""

import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

from celery import Celery
from celery.app.utils import find_app

from choreo.errors import ChoreoError
from choreo.local.discovery import DiscoveryError, Package, blame, packages_with_services
from choreo.service import Service


def find_service(target: str) -> Service:
    """
    Return the service that ``celery -A TARGET`` finds. TARGET is a module, ``module:attribute``, or a package.

    Its module is imported. What that prints goes to stderr. Raises `DiscoveryError` if it cannot be imported, or
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
    module = target.partition(":")[0]
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        return f"there is no module {error.name}. Run the command in the directory that holds it."
    # A module whose import failed is not there afterwards.
    if module in sys.modules and isinstance(error, ModuleNotFoundError) and error.name == target:
        return f"{module} has no {target.partition(':')[2]}."
    if module in sys.modules and isinstance(error, AttributeError):
        return f"{module} makes no service."
    return blame(module, error)


def _refused(reason: str, target: str) -> DiscoveryError:
    return DiscoveryError(f"{target}: {reason}{_hint(target)}")


def _hint(target: str) -> str:
    """The services that the package makes, or any package of this directory, with a space before."""
    found: list[str] = []
    with suppress(ChoreoError):
        try:
            found = Package(target.partition(":")[0].partition(".")[0]).targets
        except ChoreoError:
            found = [place for name in packages_with_services(Path.cwd()) for place in Package(name).targets]
    others = [place for place in found if place != target]
    return f" Try {' or '.join(others[:4])}." if others else ""


def _kind(found: Any) -> str:
    return "a Celery app" if issubclass(type(found), Celery) else f"a {type(found).__name__}"
