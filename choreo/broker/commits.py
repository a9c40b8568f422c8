"""
Commits that are under way: sent, and not answered yet.

A worker that runs one handler after another need not stand still until Redis has answered each commit. It sends the
commit, goes on with the next event, and reads the answers of several commits in one go, at the latest when it has
nothing left to do. What has been sent reaches Redis even if the next thing that happens is `kill -9`, and Redis
carries it out before anything that is sent later, so a crash repeats no more than it does otherwise.

What is different is who hears of a failure, and when: the handler's task has ended by then. So a commit that was
refused gives its event back here, and for a while afterwards nothing is sent ahead: each commit waits for its answer
again, and a failure is the task's own. A commit whose answer was lost with the connection is sent again first, which
changes nothing if it was carried out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from choreo.broker.ownership import Ownership
from choreo.broker.scripts import Script
from choreo.broker.wire import Part, Wire, pack

logger = logging.getLogger("choreo.broker")

#: So many commits are under way at most.
MOST = 32
#: Seconds for which no commit is sent ahead after one has failed.
WARY = 5.0
#: An answer that has not been read for so many seconds is fetched before the next commit is sent, or by the heart.
OLD = 1.0
#: Pauses in seconds before commits are sent again after the connection broke.
PAUSES = (0.0, 0.05, 0.2, 0.5)


class Fate(Enum):
    """What becomes of the copy whose commit was answered."""

    #: The commit took it along.
    GONE = auto()
    #: It is of no use any more: somebody else has settled it, or has taken over.
    ACK = auto()
    #: Nothing was committed.
    BACK = auto()


#: Told the answer, or the error.
Told = Callable[[Any], Fate]


@dataclass(slots=True)
class Commit:
    """A script that settles one delivery."""

    tag: str
    script: Script
    keys: Sequence[Part]
    args: Sequence[Part]
    told: Told


class Commits:
    """
    The commits of one channel's consumer. ``own`` is whose messages they are about.

    A commit's ack is part of it, so the message must not be acked apart: see `holds`.
    """

    def __init__(self, wire: Wire, own: Callable[[], Ownership]) -> None:
        self._wire = wire
        self._own = own
        self._pending: deque[Commit] = deque()
        self._tags: set[str] = set()
        self._since = 0.0
        self._wary_until = 0.0
        # The heart's thread reads answers while a long handler runs.
        self._lock = threading.RLock()

    def send(self, commit: Commit) -> bool:
        """Send a commit ahead. False if that is not wise now: nothing was sent, and the caller waits for an answer."""
        with self._lock:
            now = time.monotonic()
            if now < self._wary_until:
                return False
            if self._pending and (len(self._pending) >= MOST or now - self._since > OLD):
                self.settle()
            if not self._pending:
                self._since = now
            self._pending.append(commit)
            self._tags.add(commit.tag)
            try:
                self._wire.push(pack(self._wire.evalsha(commit.script, commit.keys, commit.args)))
            except (RedisError, OSError):
                self._send_again()
            return True

    def holds(self, tag: str) -> bool:
        """Whether the commit under way decides what becomes of this delivery."""
        return tag in self._tags

    def settle(self) -> None:
        """Read all answers. Whatever they are, this raises nothing: those who wait for them are told."""
        if not self._pending:
            return
        with self._lock:
            unknown: list[Commit] = []
            while self._pending:
                try:
                    answer = self._wire.pull()
                except NoScriptError:
                    unknown.append(self._pending.popleft())
                except ResponseError as error:
                    self._finish(self._pending.popleft(), error)
                except (RedisError, OSError):
                    self._send_again()
                else:
                    self._finish(self._pending.popleft(), answer)
            for commit in unknown:  # the first of them loads the script
                self._finish(commit, self._call(commit))

    def settle_old(self) -> None:
        """Read the answers if nobody has for a while: a long handler may be running."""
        if self._pending and time.monotonic() - self._since > OLD:
            self.settle()

    def close(self) -> None:
        """Read what is left, and close the connection."""
        self.settle()
        self._wire.close()

    def _send_again(self) -> None:
        """One by one, each waiting for its answer: what was carried out before is not carried out twice."""
        error: Exception | None = None
        if self._pending:
            # Answers to what was sent before would be taken for those to what is sent now.
            self._wire.drop()
        while self._pending:
            commit = self._pending.popleft()
            answer = error or self._call(commit)
            if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
                error = answer  # what did not work for one need not be tried for each
            self._finish(commit, answer)

    def _call(self, commit: Commit) -> Any:
        failure: Exception = ConnectionError()
        for pause in PAUSES:
            time.sleep(pause)
            try:
                return self._wire.call(commit.script, commit.keys, commit.args)
            except ResponseError as error:
                return error
            except (RedisError, OSError) as error:
                failure = error
                self._wire.drop()
        return failure

    def _finish(self, commit: Commit, answer: Any) -> None:
        self._tags.discard(commit.tag)
        try:
            fate = commit.told(answer)
        except Exception:
            logger.exception("a commit's answer could not be understood")
            fate = Fate.BACK
        if fate is Fate.ACK:
            self._own().ack(commit.tag)
        elif fate is Fate.BACK:
            self._wary_until = time.monotonic() + WARY
            # A refusal may come again and again, so it counts; where Redis is away, nothing can be said of the event.
            away = isinstance(answer, Exception) and not isinstance(answer, ResponseError)
            self._own().return_soon([commit.tag], counted=not away)
