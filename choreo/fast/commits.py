"""
Commits that are under way: sent, and not answered yet.

A worker that runs its handlers itself, one after another or in threads, need not stand still until Redis has answered
each commit. It sends the commit, goes on with the next event, and reads the answers of several commits in one go, when
it hears from Redis for another reason: of the next event, or that there is none. What has been sent reaches Redis even
if the next thing that happens is `kill -9`, and Redis carries it out before anything that is sent later. (A pool child
has no such line: its parent acks, and would have to be told of the answer.)

*Several in one go.* Sending costs as much as a very short handler does, on both sides. So when a handler was done
within `QUICK` and more is waiting in this process, its commit goes out with the next ones: after `TOGETHER` of them,
or `SOON`. A thread sees to it that a long handler does not hold up the commits before it, nor their answers. It is not
the heart's: reading may take as long as a broken connection is not known to be broken. A crash in between repeats
what these few handlers did. It repeats it once: what was delivered before is not begun until everything before it is
sent, and its own commit is sent at once. So what kills its worker takes nobody else along with it again and again.
Threads share one line, and gain most: to wait for an answer each would hand the interpreter to another and back.
Whoever has to ask the store before it begins takes along the commits that wait.

*Asking ahead.* Every part of a join has to be asked about. Of parts that were taken together all questions go out at
once, before the first of them is begun, and each answer is read when its part's turn comes.

What is different is who hears of a failure, and when: the handler's task has ended by then. So a commit that was
refused gives its event back here, and for a while afterwards nothing is sent ahead: each commit waits for its answer
again, and a failure is the task's own. A commit whose answer was lost with the connection is sent again first, which
changes nothing if it was carried out.
"""

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import groupby, islice
from typing import Any

from redis.exceptions import NoScriptError, RedisError, ResponseError

from choreo.broker.redis.ownership import Ownership
from choreo.daemon import Daemon
from choreo.redis_client.scripts import Script
from choreo.redis_client.wire import Part, Wire, pack, pack_some

logger = logging.getLogger("choreo.broker")

#: So many commits are under way at most.
MOST = 128
#: Seconds for which no commit is sent ahead after one has failed.
WARY = 5.0
#: An answer that has not been read for so many seconds is fetched before the next commit is sent, or by the thread.
OLD = 1.0
#: A commit may wait for the next one if its handler took no longer than this, in seconds.
QUICK = 0.001
#: So many commits are sent in one go at most.
TOGETHER = 16
#: No commit waits for longer than this for the next handler to begin; nor for twice the second, whatever runs.
SOON, AT_THE_LATEST = 0.005, 0.01
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


#: Told the answer, or the error, and whether the commit was sent more than once.
Told = Callable[[Any, bool], Fate]


class Header:
    """
    What commits have in common that can be sent as one command: those of one handler, for one consumer.

    The script does any number of them, and answers a list: an answer for each, or ``[b"error", why]``.
    """

    def __init__(self, script: Script, keys: Sequence[Part], args: Sequence[Part]) -> None:
        self.script, self.keys, self.args = script, keys, args
        self._packed = "", 0, b""

    def packed(self, wire: Wire) -> tuple[int, bytes]:
        """How many parts of the command this is, and those, packed. Raises as `pack_some` does."""
        sha = wire.known(self.script).sha
        if self._packed[0] != sha:
            parts = wire.evalsha(self.script, self.keys, self.args)
            self._packed = sha, len(parts), pack_some(parts)
        return self._packed[1:]


@dataclass(slots=True)
class Commit:
    """What settles one delivery."""

    tag: str
    header: Header
    #: What the script is told about this one.
    args: Sequence[Part]
    told: Told
    packed: bytes = b""
    #: Whether it was sent again, after a connection broke.
    again: bool = False


@dataclass(slots=True, eq=False)
class Question:
    """A script whose answer is wanted later. It may be run again."""

    script: Script
    keys: Sequence[Part]
    args: Sequence[Part]
    packed: bytes = b""
    again: bool = False
    answered: bool = False
    #: None if there is none.
    answer: Any = None


#: What has been sent, and is to be answered.
Sent = Commit | Question


class _Turn(threading.local):
    """What the handler that runs in this thread is like."""

    began = 0.0
    alone = True


class Commits:
    """
    The commits of one channel's consumer. ``own`` is whose messages they are about.

    A commit's ack is part of it, so the message must not be acked apart: see `decides`.
    """

    def __init__(self, wire: Wire, own: Callable[[], Ownership], more: Callable[[], object] = lambda: False) -> None:
        self._wire = wire
        self._own = own
        #: Whether more deliveries wait in this process.
        self._more = more
        self._pending: deque[Sent] = deque()
        #: How many of them each command that was sent is about.
        self._commands: deque[int] = deque()
        #: How many commands were sent so far.
        self.sent = 0
        #: The newest of them, which are not sent, and since when the oldest of those waits.
        self._unsent: list[Sent] = []
        self._unsent_since = 0.0
        self._turn = _Turn()
        self._daemon = Daemon("choreo-commits", self._look, OLD)
        #: True while the daemon looks after commits that wait to be sent.
        self._is_watched = False
        self._closed = False
        self._tags: set[str] = set()
        self._since = 0.0
        self._wary_until = 0.0
        # Handlers may run in many threads, and one more looks after what they sent.
        self._lock = threading.RLock()

    def begin(self, *, alone: bool) -> None:
        """A handler begins in this thread. ``alone``: whatever becomes of it, no other commit may be lost with it."""
        now = time.monotonic()
        if self._unsent and (alone or now - self._unsent_since > SOON):
            self.flush()
        self._turn.began, self._turn.alone = now, alone

    def send(self, commit: Commit) -> bool:
        """Send a commit ahead. False if that is not wise now: nothing was sent, and the caller waits for an answer."""
        if time.monotonic() < self._wary_until:
            return False
        # Nothing may go wrong any more once it counts as pending.
        commit.header.packed(self._wire)
        commit.packed = pack_some(commit.args)
        with self._lock:
            if not self._add(commit):
                return False
            self._tags.add(commit.tag)
            if not self._may_wait(time.monotonic()):
                self.flush()
            elif not self._is_watched:
                self._is_watched = True
                self._daemon.wake()
            return True

    def ask_ahead(self, question: Question) -> bool:
        """Put a question. It goes out with the next `flush`. False if that is not wise now: nothing was asked."""
        question.packed = pack(self._wire.evalsha(question.script, question.keys, question.args))
        # The event loop asks, and must not wait for as long as a thread may wait for an answer.
        if not self._lock.acquire(timeout=SOON):
            return False
        try:
            return self._add(question)
        finally:
            self._lock.release()

    def answer(self, question: Question) -> Any:
        """Wait for the answer to a question. None if there is none."""
        with self._lock:
            if not question.answered:
                # Commits that wait go on waiting, if the question does not.
                if question in self._unsent:
                    self.flush()
                self._read(question)
        return question.answer

    def _add(self, sent: Sent) -> bool:
        now = time.monotonic()
        if now < self._wary_until or self._closed:
            return False
        if self._pending and (len(self._pending) >= MOST or now - self._since > OLD):
            self.settle()
        if not self._pending:
            self._since = now
        if not self._unsent:
            self._unsent_since = now
        if not self._daemon.is_running:
            self._daemon.start()
        self._pending.append(sent)
        self._unsent.append(sent)
        return True

    def _may_wait(self, now: float) -> bool:
        return (
            not self._turn.alone
            and now - self._turn.began < QUICK
            and len(self._unsent) < TOGETHER
            and now - self._unsent_since < SOON
            and bool(self._more())
        )

    def flush(self, *, wait: bool = True) -> None:
        """Send what waits. Without ``wait``, that is left to others while another thread has the line."""
        if not self._unsent or not self._lock.acquire(blocking=wait):
            return
        try:
            commands = self._packed()
            if commands:
                self._wire.push(b"".join(commands), len(commands))
        except (RedisError, OSError):
            self._send_again()
        finally:
            self._lock.release()

    def _packed(self) -> list[bytes]:
        """What waits, as commands that count as sent."""
        unsent, self._unsent = self._unsent, []
        commands: list[bytes] = []
        before = len(self._commands)
        for header, some in groupby(unsent, lambda sent: sent.header if isinstance(sent, Commit) else None):
            together = list(some)
            packed = [sent.packed for sent in together]
            if header is None:
                commands += packed
                self._commands += [1] * len(together)
            else:
                count, first = header.packed(self._wire)
                count += sum(len(sent.args) for sent in together)
                commands.append(b"*%d\r\n%b%b" % (count, first, b"".join(packed)))
                self._commands.append(len(together))
        self.sent += len(self._commands) - before
        return commands

    def _look(self) -> float:
        """
        One turn of the thread. Returns the seconds until the next one.

        It sends the commits that have waited for too long, and reads the answers that no handler has read for a while:
        a long handler may be running.
        """
        if self._is_watched and time.monotonic() - self._unsent_since < AT_THE_LATEST:
            return AT_THE_LATEST
        with self._lock:
            if not self._unsent:
                self._is_watched = False
            elif time.monotonic() - self._unsent_since >= AT_THE_LATEST:
                self.flush()
            if self._pending and time.monotonic() - self._since > OLD:
                self.settle()
            return AT_THE_LATEST if self._is_watched else OLD

    def ask(self, script: Script, keys: Sequence[Part], args: Sequence[Part]) -> Any:
        """
        Run a script and return its answer; commits that wait go out with it. None if this line cannot tell the answer.

        The script may be one of those that can be run again.
        """
        # Another thread may wait for an answer just now, and this one need not wait for that.
        if not self._lock.acquire(blocking=False):
            return None
        try:
            if self._closed:
                return None
            packed = pack(self._wire.evalsha(script, keys, args))
            commands = [*self._packed(), packed]
            unknown: list[Sent] = []
            answer: Any = None
            try:
                self._wire.push(b"".join(commands), len(commands))
                unknown = self._read_answers()
                answer = self._wire.pull()
            except ResponseError:
                pass
            except (RedisError, OSError):
                self._send_again()
            self._call_each(unknown)
            return answer
        finally:
            self._lock.release()

    def decides(self, tag: str) -> bool:
        """
        Whether the commit decides what becomes of this delivery. Asked once, when Celery acks it.

        That may be after the answer, which other threads read as well, and after the end of this line: what goes back
        must not be acked then.
        """
        if tag not in self._tags:
            return False
        self._tags.discard(tag)
        return True

    def settle(self, *, wait: bool = True, sent_before: int | None = None) -> None:
        """
        Read the answers: all of them, or those to the commands that were sent before `sent` was so many.

        Whatever they are, this raises nothing: those who wait for them are told. Without ``wait``, nothing is done
        while another thread has the line.
        """
        if not self._pending or not self._lock.acquire(blocking=wait):
            return
        try:
            if sent_before is None:
                self.flush()
            self._read(sent_before=sent_before)
        finally:
            self._lock.release()

    def _read(self, wanted: Question | None = None, sent_before: int | None = None) -> None:
        self._call_each(self._read_answers(wanted, sent_before))  # the first of them loads the script

    def _read_answers(self, wanted: Question | None = None, sent_before: int | None = None) -> list[Sent]:
        """Read all answers, or some of them. Returns what they are to of which Redis did not know the script."""
        until = sys.maxsize if sent_before is None else sent_before
        unknown: list[Sent] = []
        while self._pending:
            if unknown:
                # All are read before a script is loaded, also those to what still waits.
                self.flush()
            elif wanted.answered if wanted is not None else self.sent - len(self._commands) >= until:
                break
            try:
                answer = self._wire.pull()
            except NoScriptError:
                unknown += self._answered()
            except ResponseError as error:
                for sent in self._answered():
                    self._finish(sent, error)
            except (RedisError, OSError):
                self._send_again()
            else:
                together = self._answered()
                for sent, one in zip(together, _apart(together, answer), strict=True):
                    self._finish(sent, one)
        return unknown

    def _answered(self) -> list[Sent]:
        """What the oldest command was about. It is no longer pending."""
        return [self._pending.popleft() for _ in range(self._commands.popleft())]

    def close(self) -> None:
        """Read what is left, and close the connection."""
        with self._lock:
            self.settle()
            self._wire.close()
            self._closed = True
        self._daemon.end()

    def _send_again(self) -> None:
        """Call for what is pending. What was carried out before is not carried out twice."""
        for sent in islice(self._pending, len(self._pending) - len(self._unsent)):
            sent.again = True
        # What waits to be sent is pending as well, and answers to what was sent before are none to what is sent now.
        self._unsent = []
        self._commands.clear()
        pending, self._pending = self._pending, deque()
        if pending:
            self._wire.drop()
        # Who asked asks again, since nobody waits for him alone.
        for question in pending:
            if isinstance(question, Question):
                self._finish(question, ConnectionError())
        self._call_each(sent for sent in pending if isinstance(sent, Commit))

    def _call_each(self, several: Iterable[Sent]) -> None:
        """One by one, each waiting for its answer."""
        away: Exception | None = None
        for sent in several:
            answer = away or self._call(sent)
            if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
                away = answer  # what did not work for one need not be tried for each
            self._finish(sent, answer)

    def _call(self, sent: Sent) -> Any:
        failure: Exception = ConnectionError()
        for pause in PAUSES:
            time.sleep(pause)
            try:
                if isinstance(sent, Question):
                    return self._wire.call(sent.script, sent.keys, sent.args)
                header = sent.header
                answer = self._wire.call(header.script, header.keys, [*header.args, *sent.args])
                return _apart([sent], answer)[0]
            except ResponseError as error:
                return error
            except (RedisError, OSError) as error:
                failure, sent.again = error, True
                self._wire.drop()
        return failure

    def _finish(self, sent: Sent, answer: Any) -> None:
        if isinstance(sent, Question):
            sent.answered, sent.answer = True, None if isinstance(answer, Exception) else answer
            return
        try:
            fate = sent.told(answer, sent.again)
        except Exception:
            logger.exception("a commit's answer could not be understood")
            fate = Fate.BACK
        if fate is Fate.ACK:
            self._own().ack(sent.tag)
        elif fate is Fate.BACK:
            self._wary_until = time.monotonic() + WARY
            # A refusal may come again and again, so it counts; where Redis is away, nothing can be said of the event.
            away = isinstance(answer, Exception) and not isinstance(answer, ResponseError)
            self._own().return_soon([sent.tag], counted=not away)


def _apart(together: Sequence[Sent], answer: Any) -> Sequence[Any]:
    """The answers to what was one command."""
    if isinstance(together[0], Question):
        return [answer]
    if type(answer) is not list or len(answer) != len(together):
        return [answer] * len(together)
    return [refused(one) or one for one in answer]


def refused(answer: Any) -> ResponseError | None:
    """The error that a script answers about one of its commits."""
    return ResponseError(answer[1].decode(errors="replace")) if answer and answer[0] == b"error" else None
