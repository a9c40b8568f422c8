"""
Sending commits ahead: a worker goes on with the next event before Redis has answered the commit of the last one.

Workers of the pools solo and threads do it, which run handlers in their own process. The worker sends a commit, begins
the next event, and reads the answers of several commits together, when it reads from Redis for another reason: the
next messages, or that there are none. Redis carries out a command that was sent, and before any that is sent later,
even if the worker is killed (`kill -9`) right after. A child of the prefork pool reads the answers at the end of its
bundle, and tells its parent, which holds the messages: see child.py.

*Several commits in one command.* Sending costs as much as a very short handler, on both sides. So if a handler took
less than `QUICK_SECONDS` and more deliveries wait in this process, its commit waits for the next ones. They go out
together after `MOST_TOGETHER` commits or `SOON_SECONDS`. A thread sends the commits that have waited for
`LATEST_SECONDS`, and reads answers that nothing has read for `OLD_SECONDS`, so that a long handler delays neither. It
is not the thread of the heartbeat, since reading blocks until a broken connection is known to be broken.

If the worker crashes while commits wait, those few handlers run again. They do so once: a redelivered message does not
begin before all waiting commits are sent, and its own commit is sent at once. So an event that kills its worker does
not repeat other events again and again.

Threads share one connection and gain most: if each waited for its answer, Python would switch threads twice per event.
A question to the store, before a handler begins, takes the waiting commits along (`Commits.ask`).

*Asking ahead.* See ahead.py.

*Failures.* The handler has returned before its commit is answered. So a refused commit cannot fail the run: the event
goes back to its queue here. For `WARY_SECONDS` after that, each commit waits for its answer, and a refusal fails its
run. If the connection breaks before the answer, the commit is sent again. If it had been carried out, the second one
changes nothing.
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
from typing import Any, Protocol

from redis.exceptions import NoScriptError, RedisError, ResponseError

from choreo.daemon import Daemon
from choreo.redis_client.refusals import is_outage
from choreo.redis_client.scripts import Script
from choreo.redis_client.wire import Argument, Wire, pack, pack_some

logger = logging.getLogger("choreo.broker")

#: The most commits and questions that are sent and not answered.
MOST_UNANSWERED = 128
#: Seconds for which no commit is sent ahead after one has failed.
WARY_SECONDS = 5.0
#: Seconds after which an unread answer is read: before the next commit is sent, or by the thread.
OLD_SECONDS = 1.0
#: A commit may wait for the next one if its handler took less than this, in seconds.
QUICK_SECONDS = 0.001
#: The most commits that wait to be sent together.
MOST_TOGETHER = 16
#: Seconds after which a commit that waits is sent: checked when a handler begins and when it commits.
SOON_SECONDS = 0.005
#: The same: checked by the thread, as often as this. So no commit waits for longer than twice this, however long a
#: handler runs.
LATEST_SECONDS = 0.01
#: Pauses in seconds before commits are sent again after the connection broke.
PAUSE_SECONDS = (0.0, 0.05, 0.2, 0.5)


class Fate(Enum):
    """What to do with the delivered copy once its commit is answered."""

    #: Nothing: the commit has acked it.
    GONE = auto()
    #: Ack it: another delivery has settled the unit, or has claimed it.
    ACK = auto()
    #: Give it back to its queue: nothing was committed.
    BACK = auto()


#: Callback: gets the answer to a commit (or the error), and True if the commit was sent more than once.
OnAnswer = Callable[[Any, bool], Fate]


class Header:
    """
    The script, keys and first arguments that the commits of one handler for one consumer have in common.

    Commits with the same header can be sent as one command. The script settles any number of claims, and answers a
    list: for each its answer, or ``[b"error", reason]``.
    """

    def __init__(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> None:
        self.script, self.keys, self.args = script, keys, args
        self._packed = "", 0, b""

    def packed(self, wire: Wire) -> tuple[int, bytes]:
        """The number of parts of a command that this header makes, and these parts, packed once per script."""
        sha = wire.known(self.script).sha
        if self._packed[0] != sha:
            parts = wire.evalsha(self.script, self.keys, self.args)
            self._packed = sha, len(parts), pack_some(parts)
        return self._packed[1:]


@dataclass(slots=True)
class Commit:
    """The commit of one delivery. ``tag`` is the delivery's."""

    tag: str
    header: Header
    #: The script's arguments for this claim.
    args: Sequence[Argument]
    on_answer: OnAnswer
    packed: bytes = b""
    #: True if it was sent more than once, because a connection broke.
    repeated: bool = False


@dataclass(slots=True, eq=False)
class Question:
    """A call of a script whose answer is read later. The script must be one that can be run again without harm."""

    script: Script
    keys: Sequence[Argument]
    args: Sequence[Argument]
    packed: bytes = b""
    is_answered: bool = False
    #: None until it is answered, and if Redis refused it or the answer was lost.
    answer: Any = None


Sent = Commit | Question


class Owner(Protocol):
    """Holds the messages whose commits are sent: an `Ownership`, except in a child of the prefork pool."""

    def ack(self, tag: str) -> None:
        """Ack a message, at some time."""

    def return_soon(self, tags: list[str], *, counted: bool = False) -> None:
        """Give messages back to their queues. ``counted``: it counts as a failed delivery."""


class _Turn(threading.local):
    """The handler that runs in this thread: when it began, and True if its commit must not wait for others."""

    began = 0.0
    alone = True


class Commits:
    """
    The commits of one channel's consumer, on a connection of their own.

    ``wire`` is that connection, ``own`` returns the owner that holds the consumer's messages, and ``more`` returns
    a true value if more deliveries wait in this process. It is closed with its channel. Safe in threads.

    A commit acks its message, so the message must not be acked apart: see `decides`.
    """

    def __init__(self, wire: Wire, own: Callable[[], Owner], more: Callable[[], object] = lambda: False) -> None:
        self._wire = wire
        self._own = own
        self._more = more
        #: Everything that has no answer yet, oldest first; the last of it may not be sent yet.
        self._pending: deque[Sent] = deque()
        #: For each command that was sent and not answered: how many of the pending it holds.
        self._commands: deque[int] = deque()
        #: The number of commands that were sent so far.
        self.sent = 0
        #: The last of the pending, which are not sent yet; and the time since which the oldest of these waits.
        self._unsent: list[Sent] = []
        self._unsent_since = 0.0
        self._turn = _Turn()
        self._daemon = Daemon("choreo-commits", self._look, OLD_SECONDS)
        #: True while the daemon looks after commits that wait to be sent.
        self._is_watched = False
        self._closed = False
        #: The tags of deliveries whose commits were sent ahead, until Celery acks them: see `decides`.
        self._tags: set[str] = set()
        #: The time since which the oldest of the pending has no answer.
        self._since = 0.0
        self._wary_until = 0.0
        # Handlers may run in many threads; one more thread sends and reads for them.
        self._lock = threading.RLock()

    def begin(self, *, alone: bool) -> None:
        """
        Call this when a handler begins in this thread.

        ``alone``: the handler may kill the worker, so all waiting commits are sent first, and its own does not wait.
        """
        now = time.monotonic()
        if self._unsent and (alone or now - self._unsent_since > SOON_SECONDS):
            self.flush()
        self._turn.began, self._turn.alone = now, alone

    def send(self, commit: Commit) -> bool:
        """
        Send a commit ahead, now or together with the next ones. `Commit.on_answer` gets its answer.

        False if a commit has failed within the last `WARY_SECONDS`, or this is closed: nothing was sent, and the
        caller must commit by itself and wait for the answer. Raises as `pack_some` does for arguments that cannot be
        packed.
        """
        if self._wary_until and time.monotonic() < self._wary_until:
            return False
        # Once it is pending, nothing may fail any more. So everything is packed before.
        commit.header.packed(self._wire)
        commit.packed = pack_some(commit.args)
        with self._lock:
            now = time.monotonic()
            if not self._add(commit, now):
                return False
            self._tags.add(commit.tag)
            if not self._may_wait(now):
                self.flush()
            elif not self._is_watched:
                self._is_watched = True
                self._daemon.wake()
            return True

    def ask_ahead(self, question: Question) -> bool:
        """
        Note a question, which goes out with the next `flush`; `answer` returns its answer.

        False if nothing can be sent ahead now: see `send`. Also False if another thread has the connection for longer
        than `SOON_SECONDS`.
        """
        question.packed = pack(self._wire.evalsha(question.script, question.keys, question.args))
        # The event loop calls this. It must not wait for as long as a thread may wait for an answer.
        if not self._lock.acquire(timeout=SOON_SECONDS):
            return False
        try:
            return self._add(question, time.monotonic())
        finally:
            self._lock.release()

    def answer(self, question: Question) -> Any:
        """Wait for the answer to a question. None if Redis refused it, or the connection broke."""
        with self._lock:
            if not question.is_answered:
                # If the question was sent before, the commits that wait may go on waiting.
                if question in self._unsent:
                    self.flush()
                self._read(question)
        return question.answer

    def _add(self, sent: Sent, now: float) -> bool:
        if now < self._wary_until or self._closed:
            return False
        if self._pending and (len(self._pending) >= MOST_UNANSWERED or now - self._since > OLD_SECONDS):
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
            and now - self._turn.began < QUICK_SECONDS
            and len(self._unsent) < MOST_TOGETHER
            and now - self._unsent_since < SOON_SECONDS
            and bool(self._more())
        )

    def flush(self, *, wait: bool = True) -> None:
        """
        Send everything that waits.

        Without ``wait``, do nothing if another thread has the connection: that thread, or the next call, sends it.
        """
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
        """Everything that waits, as packed commands, one per header and question. They count as sent from now on."""
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

        It sends commits that have waited for `LATEST_SECONDS`, and reads answers that nothing has read for
        `OLD_SECONDS`: a long handler may be running.
        """
        if self._is_watched and time.monotonic() - self._unsent_since < LATEST_SECONDS:
            return LATEST_SECONDS
        with self._lock:
            if not self._unsent:
                self._is_watched = False
            elif time.monotonic() - self._unsent_since >= LATEST_SECONDS:
                self.flush()
            if self._pending and time.monotonic() - self._since > OLD_SECONDS:
                self.settle()
            return LATEST_SECONDS if self._is_watched else OLD_SECONDS

    def ask(self, script: Script, keys: Sequence[Argument], args: Sequence[Argument]) -> Any:
        """
        Run a script and return its answer. Waiting commits go out with it.

        None if there is no answer: another thread has the connection, it broke, or Redis refused the script. The script
        may have been carried out, so it must be one that can be run again without harm.
        """
        # Another thread may be waiting for an answer. This one need not wait for it: it has another connection.
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
        True if a commit that was sent ahead settles this delivery, so that it must not be acked apart.

        Called once per delivery, when Celery acks it. That may be after the commit was answered, which another thread
        may have read, and after `close`. A delivery that was given back must not be acked even then.
        """
        if tag not in self._tags:
            return False
        self._tags.discard(tag)
        return True

    def settle(self, *, wait: bool = True, sent_before: int | None = None) -> None:
        """
        Read answers: all of them, or those to the first ``sent_before`` commands. Sends the waiting commits if all.

        Raises nothing: each answer, or error, goes to its `Commit.on_answer`. Without ``wait``, do nothing if another
        thread has the connection.
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
        self._call_each(self._read_answers(wanted, sent_before))  # the first call loads the script

    def _read_answers(self, wanted: Question | None = None, sent_before: int | None = None) -> list[Sent]:
        """
        Read the answers up to that of ``wanted``, or to the first ``sent_before`` commands, or all.

        Returns the commits and questions that Redis answered with NOSCRIPT.
        """
        until = sys.maxsize if sent_before is None else sent_before
        unknown: list[Sent] = []
        while self._pending:
            if unknown:
                # Before a script is loaded, everything is sent and all answers are read.
                self.flush()
            elif wanted.is_answered if wanted is not None else self.sent - len(self._commands) >= until:
                break
            try:
                answer = self._wire.pull()
            except NoScriptError:
                unknown += self._pop_oldest()
            except ResponseError as error:
                for sent in self._pop_oldest():
                    self._finish(sent, error)
            except (RedisError, OSError):
                self._send_again()
            else:
                together = self._pop_oldest()
                for sent, one in zip(together, _apart(together, answer), strict=True):
                    self._finish(sent, one)
        return unknown

    def _pop_oldest(self) -> list[Sent]:
        """The commits or the question of the oldest command. They are no longer pending."""
        return [self._pending.popleft() for _ in range(self._commands.popleft())]

    def close(self) -> None:
        """Send and read what is left, close the connection and end the thread. Nothing is sent ahead after that."""
        with self._lock:
            self.settle()
            self._wire.close()
            self._closed = True
        self._daemon.end()

    def _send_again(self) -> None:
        """
        After the connection broke: send all pending commits once more, and wait for each answer.

        A commit that Redis had carried out is answered ALREADY, and changes nothing. Questions end without an answer.
        """
        for sent in islice(self._pending, len(self._pending) - len(self._unsent)):
            if isinstance(sent, Commit):
                sent.repeated = True
        # Waiting commits are pending as well. Answers to earlier commands will not come: the connection is dropped.
        self._unsent = []
        self._commands.clear()
        pending, self._pending = self._pending, deque()
        if pending:
            self._wire.drop()
        # `answer` returns None for a question, and its caller asks again.
        for question in pending:
            if isinstance(question, Question):
                self._finish(question, ConnectionError())
        self._call_each(sent for sent in pending if isinstance(sent, Commit))

    def _call_each(self, several: Iterable[Sent]) -> None:
        """Send each by itself, and wait for its answer. If Redis is away for one, the others are not tried."""
        away: Exception | None = None
        for sent in several:
            answer = away or self._call(sent)
            if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
                away = answer
            self._finish(sent, answer)

    def _call(self, sent: Sent) -> Any:
        failure: Exception = ConnectionError()
        for pause in PAUSE_SECONDS:
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
                failure = error
                if isinstance(sent, Commit):
                    sent.repeated = True
                self._wire.drop()
        return failure

    def _finish(self, sent: Sent, answer: Any) -> None:
        if isinstance(sent, Question):
            sent.is_answered, sent.answer = True, None if isinstance(answer, Exception) else answer
            return
        try:
            fate = sent.on_answer(answer, sent.repeated)
        except Exception:
            logger.exception("a commit's answer could not be understood")
            fate = Fate.BACK
        if fate is Fate.ACK:
            self._own().ack(sent.tag)
        elif fate is Fate.BACK:
            self._wary_until = time.monotonic() + WARY_SECONDS
            # A refusal may repeat with every delivery, so it counts as a failed one. If Redis is away or full, that
            # says nothing about the event.
            away = isinstance(answer, Exception) and is_outage(answer)
            self._own().return_soon([sent.tag], counted=not away)


def _apart(together: Sequence[Sent], answer: Any) -> Sequence[Any]:
    """The answer for each of the commits, or for the question, that were one command."""
    if isinstance(together[0], Question):
        return [answer]
    if type(answer) is not list or len(answer) != len(together):
        return [answer] * len(together)
    return [refused(one) or one for one in answer]


def refused(answer: Any) -> ResponseError | None:
    """The error in a script's answer about one of its commits; None if the answer is no error."""
    return ResponseError(answer[1].decode(errors="replace")) if answer and answer[0] == b"error" else None
