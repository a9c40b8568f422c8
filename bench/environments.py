"""Virtual environments of the peers: one each in .bench-envs/, with the versions of its requirements file."""

import hashlib
import subprocess
import sys
import venv
from functools import cache
from pathlib import Path

from bench.setting import ROOT
from bench.side import Side

FOLDER = ROOT / ".bench-envs"
REQUIREMENTS = Path(__file__).resolve().parent / "peers"


@cache
def _built(name: str) -> str:
    """Build the environment if it is missing or outdated. Returns the error, or ''."""
    requirements = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    folder, stamp = FOLDER / name, FOLDER / name / ".installed"
    if stamp.exists() and stamp.read_text() == digest:
        return ""
    print(f"Building the environment of {name} ...", file=sys.stderr, flush=True)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "-r", str(requirements)], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip()[-400:]
    stamp.write_text(digest)
    return ""


def ready(side: Side) -> bool:
    """Return True if the side has its environment. Builds it if needed; prints why if that fails."""
    if not side.environment:
        return True
    problem = _built(side.environment)
    if problem:
        print(f"{side.name} is left out: {problem}")
    return not problem
