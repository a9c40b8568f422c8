"""What a test starts ends with it, also when the tests themselves are killed."""

import ctypes
import os
import signal
import sys
from contextlib import suppress

import psutil

#: Environment variable of every process that a test starts. Tests that clean the environment leave it in.
MARK = "STARTED_BY_TESTS_OF"
#: Linux's number for "send me this signal when my parent ends", see prctl(2).
PR_SET_PDEATHSIG = 1


def with_this_process() -> None:
    """`preexec_fn` of a process that is to end with this one, whatever ends it. Only Linux can do that."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))


def marked(mark: str) -> list[psutil.Process]:
    """The processes that were started under this mark."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def end(mark: str) -> list[str]:
    """
    Kill what runs under this mark, and return what it was.

    A guard of choreo.local and what it guards are killed as well, but not returned: they would have ended with us.
    """
    left = []
    for process in marked(mark):
        with suppress(psutil.Error):
            command = " ".join(process.cmdline())
            family = [process, *process.parents()]
            guarded = any("guard.py" in " ".join(member.cmdline()) for member in family if member.pid != os.getpid())
            if not guarded and process.status() != psutil.STATUS_ZOMBIE:
                left.append(f"{process.pid}: {command[:200]}")
            process.kill()
    return left
