"""Says why a file cannot be written: the disk is full, the directory is read-only, the user has no right."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from choreo.errors import ChoreoError

#: The size of the file that `trouble_in` writes, in bytes. A log of the start is smaller.
PROBE_BYTES = 64 * 1024

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def explained(task: str, kind: type[ChoreoError]) -> Iterator[None]:
    """
    Context manager: raise an `OSError` of the block as an error of this kind, with the reason and the way out.

    ``task`` says what the block does: "write the logs".
    """
    try:
        yield
    except OSError as error:
        raise kind(f"choreo cannot {task}: {reason(error)}") from error


def trouble_in(directory: Path) -> str:
    """Return the reason why no file can be written in this directory, with the way out; "" if one can."""
    try:
        with tempfile.TemporaryFile(dir=directory) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return f"Nothing can be written to {directory}: {reason(error)}"
    return ""


def reason(error: OSError) -> str:
    """Return an error in words, with the file and the way out."""
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}. {_way_out(error)}"


def _way_out(error: OSError) -> str:
    room = "Make room there" if error.errno in _FULL else "Make it writable"
    return f"{room}, or name another directory: in TMPDIR, or with --logs for the logs."
