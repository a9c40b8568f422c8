"""Graphviz makes a picture of a digraph: its program `dot`, or the one of the extra `map`."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from choreo.errors import ChoreoError
from choreo.observe.picture import Picture

#: Seconds after which a layout is given up. One of 30 events and 60 handlers takes a tenth of a second.
TIMEOUT = 60.0


def svg(picture: Picture) -> str:
    """
    The SVG of a picture: from left to right or from top to bottom, whichever is nearer to a square.

    Raises `ChoreoError` if there is no Graphviz here, or it fails.
    """
    return min((laid_out(picture.dot(direction), "svg") for direction in ("LR", "TB")), key=_stretch)


def _stretch(drawn: str) -> float:
    """The longer side by the shorter one."""
    sides = [float(side) for side in re.findall(r'(?:width|height)="([\d.]+)pt"', drawn)[:2]]
    return max(sides) / max(min(sides), 1.0) if len(sides) == 2 else 0.0


def laid_out(digraph: str, form: str) -> str:
    """
    A digraph as Graphviz lays it out, in one of its forms: "svg", "plain".

    Raises `ChoreoError` if there is no Graphviz here, or it fails.
    """
    program = _program()
    if program is None:
        raise ChoreoError(
            "The picture needs Graphviz. Run `pip install '.[map]'` in a checkout, or install graphviz, whose program "
            "is `dot`, with your system's package manager. --mermaid and --dot need neither."
        )
    try:
        done = subprocess.run(
            [program, f"-T{form}"], input=digraph.encode(), capture_output=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ChoreoError(f"{program} did not make the picture: {error}") from error
    if done.returncode:
        raise ChoreoError(f"{program} did not make the picture: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def _program() -> str | None:
    # Beside the interpreter: the environment need not be active.
    beside = str(Path(sys.executable).parent)
    return shutil.which("dot") or shutil.which("graphviz-pure", path=beside) or shutil.which("graphviz-pure")
