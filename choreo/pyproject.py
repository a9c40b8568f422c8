"""The user's ``pyproject.toml``: the tables that choreo's commands read."""

import tomllib
from pathlib import Path
from typing import Any

NAME = "pyproject.toml"


def nearest(directory: Path) -> Path | None:
    """The nearest ``pyproject.toml``: in this absolute directory, or above it; None if there is none."""
    return next((file for place in (directory, *directory.parents) if (file := place / NAME).is_file()), None)


def table(file: Path, name: str) -> dict[str, Any]:
    """
    The table ``[tool.choreo.<name>]`` of this file; {} if it has none.

    Raises `OSError` and `ValueError` for a file that cannot be read, and `ValueError` for what is no table.
    """
    found: Any = tomllib.loads(file.read_text(encoding="utf-8"))
    for part in ("tool", "choreo", name):
        found = found.get(part, {})
        if not isinstance(found, dict):
            raise ValueError(f"{part} = {found!r} is no table")
    return dict(found)
