"""Places in the user's code: files and lines for people, written as editors and terminals open them."""

import os
import sys
import sysconfig
from pathlib import Path
from types import FrameType

#: Where the code of libraries is. The frames of their functions are no places of the user's.
_LIBRARIES = tuple(
    f"{place}{os.sep}"
    for place in (Path(__file__).parent, sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
)
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def calling_place() -> str:
    """The line of the user's code that led here, such as ``shop/events.py:12``; "" if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        if file.endswith(".py") and not is_library(file):
            return place(file, frame.f_lineno)
        frame = frame.f_back
    return ""


def place(file: str, line: int) -> str:
    """The place of a line, such as ``shop/events.py:12``: relative to the current directory if it is in it."""
    return f"{shown(file)}:{line}"


def shown(file: str) -> str:
    """The path of a file for people: relative to the current directory if it is in it."""
    path = Path(file)
    try:
        return str(path.relative_to(Path.cwd())) if path.is_absolute() else file
    except (ValueError, OSError):  # another directory, or one that was removed
        return file


def is_library(file: str) -> bool:
    """True for a file of choreo, of the standard library, or of an installed package."""
    return file.startswith(_LIBRARIES) or any(part in file for part in _INSTALLED)
