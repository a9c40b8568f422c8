"""Packages that import their names when one is first read, so that a program pays only for those that it uses."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any


def attribute(package: str, name: str, homes: Mapping[str, str]) -> Any:
    """
    Return an attribute for the package's ``__getattr__`` (PEP 562). ``homes`` maps each name to its module.

    Raises `AttributeError` for any other name. Import errors of the module pass through.
    """
    home = homes.get(name)
    if home is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
