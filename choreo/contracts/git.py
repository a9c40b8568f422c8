"""The contracts at a revision of git: from its contract files, or else from its code."""

import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from choreo.contracts.contract import ContractError, Contracts
from choreo.contracts.folder import read_files, read_folder

#: Seconds that the code of a revision may take to be imported.
LONGEST = 300
#: Runs the command line of this choreo on another directory's code: `-P` keeps that directory's own choreo out.
_WRITE = "from choreo.cli import main; main()"


def is_revision(name: str) -> bool:
    """True if git knows this name here."""
    return _git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}").returncode == 0


def contracts_at(revision: str, directory: Path, options: Sequence[str], tell: Callable[[str], None]) -> Contracts:
    """
    The contracts at a revision.

    If it has contract files in ``directory``, these are read: nothing is imported. If not, its code is: a copy of it,
    in a process of its own. ``options`` say which packages, as for the command line. ``tell`` is called with a
    sentence about that. Raises `ContractError`.
    """
    files = _files_at(revision, directory)
    if files:
        return read_files(files, revision)
    tell(f"{revision} has no contract files in {directory}, so its code is imported. `choreo events write` makes them.")
    return _imported_at(revision, options)


def _files_at(revision: str, directory: Path) -> dict[str, str]:
    where = f"{directory.as_posix()}/"
    listed = _said(_git("ls-tree", "-r", "-z", "--name-only", revision, "--", where), revision).decode()
    names = [name for name in listed.split("\0") if name.endswith(".json")]
    return {name.removeprefix(where): _said(_git("show", f"{revision}:./{name}"), revision).decode() for name in names}


def _imported_at(revision: str, options: Sequence[str]) -> Contracts:
    with TemporaryDirectory(prefix="choreo-contracts-") as place:
        code, written = Path(place, "code"), Path(place, "contracts")
        # Of the current directory only: git archive takes it for the root.
        with tarfile.open(fileobj=BytesIO(_said(_git("archive", "--format=tar", revision), revision))) as tar:
            tar.extractall(code, filter="data")
        command = [sys.executable, "-P", "-c", _WRITE, "events", "write", "--to", str(written), *options]
        try:
            done = subprocess.run(command, cwd=code, capture_output=True, text=True, timeout=LONGEST)
        except subprocess.TimeoutExpired as error:
            raise ContractError(f"the code of {revision} was not imported within {LONGEST} s.") from error
        if done.returncode:
            raise ContractError(
                f"the code of {revision} cannot be imported, so there is nothing to compare with: "
                f"{done.stderr.strip() or 'it said nothing'}"
            )
        found = read_folder(written)
    return Contracts(revision, found.events, found.services)


def _git(*args: str) -> "subprocess.CompletedProcess[bytes]":
    try:
        return subprocess.run(["git", *args], capture_output=True, timeout=LONGEST)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ContractError(f"git cannot be run: {error}") from error


def _said(done: "subprocess.CompletedProcess[bytes]", revision: str) -> bytes:
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        shallow = " In CI, fetch it first: a checkout may hold one commit only." if "Not a valid" in said else ""
        raise ContractError(f"git cannot read {revision}: {said}.{shallow}")
    return done.stdout
