"""
Commits of several events in one round trip, where the store is apart from the broker (RabbitMQ).

Alone, an event costs a round trip for its commit, a wait for the confirms of its announced events, a round trip to tell
the outbox, and an ack. Here the commits of events that are handled in quick succession wait for each other, for a few
milliseconds at most. Then all of them are recorded in one round trip; what they announced is published in one write,
with one wait for all confirms (`choreo.fast.announcer`); and their messages are acked in one write.

*Order.* A message is acked after its commit is recorded. What it announced is in the outbox from then on: if the worker
dies before it is published, the clock of any worker publishes it.

*When they are sent.* A commit waits only if its handler took less than `QUICK_SECONDS`, and more deliveries wait in
this process. The group goes out after `MOST_TOGETHER` commits or `SOON_SECONDS`, and when deliveries pause. A thread
sends commits that have waited for `LATEST_SECONDS`, so that a long handler does not delay them. With one event in
flight nothing waits.

*Threads.* The thread whose commit may not wait sends the group. A commit that comes meanwhile goes with the next one,
which the same thread sends: so under load the groups are as large as the store is slow.

*Crashes.* If the worker dies while commits wait, those few handlers run again, once: a redelivered message does not
begin before all waiting commits are sent, and its own commit is sent at once.

*Failures.* The handler has returned before its commit is answered, so a refusal cannot fail the run: the message goes
back to its queue. Each event of a group has its own answer. For `WARY_SECONDS` after a refusal every commit is sent
alone, and a refusal fails its run. While the store is away, the group is held and sent again.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from amqp.exceptions import AMQPError

from choreo.broker.rabbitmq.acks import Acks
from choreo.broker.workload import is_stopping
from choreo.daemon import Daemon
from choreo.delivery.delivery import log_too_late
from choreo.delivery.ports import Ports
from choreo.errors import StoreError
from choreo.fast.announcer import Announcer
from choreo.store.claims import FORGOTTEN, Claim, CommitResult, Outcome, Settlement
from choreo.worker.outage import outlast

logger = logging.getLogger(__name__)

#: The most commits that are sent together.
MOST_TOGETHER = 32
#: A commit may wait for the next one if its handler took less than this, in seconds.
QUICK_SECONDS = 0.002
#: Seconds after which a group is sent: checked when a handler begins and when it commits.
SOON_SECONDS = 0.005
#: The same: checked by the thread, as often as this. So no commit waits for longer than twice this.
LATEST_SECONDS = 0.01
#: Seconds for which every commit is sent alone after one was refused.
WARY_SECONDS = 5.0
#: Seconds after which a handler that runs on a claim ahead gets a claim like any other.
LONG_SECONDS = 0.1
#: Seconds between two turns of the thread while nothing waits.
IDLE_SECONDS = 1.0


@dataclass(slots=True)
class Commit:
    """The commit of one delivery: its tag on the channel, and the answers of the channel that it belongs to."""

    tag: int
    acks: Acks
    claim: Claim
    settlement: Settlement
    #: The event, for the log.
    event: Any
    #: True if it was sent more than once.
    repeated: bool = False

    def __str__(self) -> str:
        return f"{self.claim.handler}({self.event})"


class _Turn(threading.local):
    """The handler that runs in this thread: when it began, and True if its commit must not wait for others."""

    began = 0.0
    alone = True


class CommitGroup:
    """
    The commits of one channel's consumer. Safe in threads.

    ``ports`` are the service's. ``more`` returns a true value if more deliveries wait in this process.
    A commit acks its message, so the message must not be acked apart: see `decides`.
    """

    def __init__(self, ports: Ports, more: Callable[[], object] = lambda: False) -> None:
        self._ports, self._more = ports, more
        self._announcer = Announcer(ports)
        self._waiting: list[Commit] = []
        #: The time since which the oldest of the waiting commits waits.
        self._since = 0.0
        #: Handler and unit of each commit that is not answered.
        self._units: set[tuple[str, str]] = set()
        self._turn = _Turn()
        #: The tags of deliveries whose commits were added, until Celery acks them: see `decides`.
        self._tags: set[int] = set()
        #: Token → the claim ahead on which a handler runs, and when it began.
        self._running: dict[str, tuple[Claim, float]] = {}
        self._wary_until = 0.0
        self._closed = False
        #: Guards the fields above; held for moments only. `_sending` is held while a group is sent.
        self._lock, self._sending = threading.Lock(), threading.Lock()
        self._daemon = Daemon("choreo-commit-group", self._look, IDLE_SECONDS)
        self._is_watched = False

    def begin(self, claim: Claim, *, alone: bool, ahead: bool) -> None:
        """
        Call this when a handler begins in this thread.

        ``alone``: the handler may kill the worker, so all waiting commits are sent first, and its own does not wait.
        ``ahead``: it begins on a claim ahead, which becomes one like any other if the handler runs for long.
        """
        now = time.monotonic()
        if self._waiting and (alone or now - self._since > SOON_SECONDS):
            self.flush()
        self._turn.began, self._turn.alone = now, alone
        if ahead:
            self._running[claim.token] = claim, now
            self._watch()

    def end(self, claim: Claim) -> None:
        """Call this when the handler has returned, or failed."""
        self._running.pop(claim.token, None)

    def add(self, commit: Commit) -> bool:
        """
        Commit, now or together with the next ones. The message is acked, or goes back to its queue.

        False if a commit was refused within the last `WARY_SECONDS`, or this is closed: nothing was done, and the
        caller must commit by itself.
        """
        with self._lock:
            now = time.monotonic()
            if self._closed or now < self._wary_until:
                return False
            if not self._waiting:
                self._since = now
            self._waiting.append(commit)
            self._units.add((commit.claim.handler, commit.claim.unit))
            self._tags.add(commit.tag)
            may_wait = self._may_wait(now)
        if may_wait:
            self._watch()
        else:
            self.flush(wait=False)
        return True

    def _may_wait(self, now: float) -> bool:
        return (
            not self._turn.alone
            and now - self._turn.began < QUICK_SECONDS
            and len(self._waiting) < MOST_TOGETHER
            and now - self._since < SOON_SECONDS
            and bool(self._more())
            and not is_stopping()
        )

    def _watch(self) -> None:
        if not self._is_watched:
            self._is_watched = True
            self._daemon.start()
            self._daemon.wake()

    def settle_units(self, claims: Iterable[Claim]) -> None:
        """Return when no commit of these claims' units is without an answer: what the store says depends on it."""
        if self._units and any((claim.handler, claim.unit) in self._units for claim in claims):
            self.flush()

    def flush(self, *, wait: bool = True) -> None:
        """
        Send every commit that waits. On return they are answered, and so is a group that another thread was sending.

        Without ``wait``, do nothing if another thread is sending: it sends these as well.
        """
        most, sent = 0, list[Commit]()
        # Asked again after the release: a commit may have come when the last group was taken already.
        while (wait or self._waiting) and self._sending.acquire(blocking=wait):
            try:
                with self._lock:
                    group, self._waiting = self._waiting, []
                if group:
                    self._send_or_return(group)
                    sent += group
                    self._units.difference_update((one.claim.handler, one.claim.unit) for one in group)
            finally:
                self._sending.release()
            wait, most = False, max(most, len(group))
        try:
            # Under load a thread waits for the confirms.
            self._announcer.work(here=most < 2 and not self._more())
        finally:
            # Last: RabbitMQ writes acks to disk, too, and the next service waits for what was announced.
            self._write_acks(sent)

    def _send_or_return(self, group: list[Commit]) -> None:
        """Send them. Whatever fails, each message is acked or goes back: no run waits for that any more."""
        try:
            self._send(group)
        except Exception as error:  # it must not fail the run in this thread, whose commit may be recorded
            logger.exception("%d commits failed in an unexpected way", len(group))
            self._return([(commit, StoreError(repr(error), is_outage=False)) for commit in group])

    def _send(self, group: list[Commit]) -> None:
        commits = [(commit.claim, commit.settlement) for commit in group]
        answers = self._ports.store.commit_all(commits, self._announcer.take_sent())
        if any(isinstance(answer, StoreError) and answer.is_outage for answer in answers):
            logger.error("%s and %d more: %s; they are held until the store is back", group[0], len(group) - 1, answers)
            outlast(self._ports.store)
            for commit in group:
                commit.repeated = True
            answers = self._ports.store.commit_all(commits)
        back: list[tuple[Commit, StoreError]] = []
        for commit, answer in zip(group, answers, strict=True):
            if isinstance(answer, StoreError):
                back.append((commit, answer))
            elif answer.outcome is Outcome.LOST:
                back.append((commit, StoreError(FORGOTTEN, is_outage=False)))
            else:
                self._settled(commit, answer)
        if back:
            self._return(back)

    def _settled(self, commit: Commit, answer: CommitResult) -> None:
        commit.acks.ack(commit.tag)
        if answer.outcome is not Outcome.OK:
            answer.repeated = answer.repeated or commit.repeated
            log_too_late(str(commit), commit.claim, answer)
        elif answer.unsent:
            self._announcer.add(commit.claim.handler, answer.unsent)
        elif answer.unheard:
            self._ports.publisher.note_unheard(answer.unheard)

    def _return(self, back: list[tuple[Commit, StoreError]]) -> None:
        self._wary_until = time.monotonic() + WARY_SECONDS
        for commit, error in back:
            # The log has told of a success already, when the commit was added.
            text = "%s is not done after all, its commit failed: %s; it goes back to its queue"
            logger.error(text, commit, error)
            # A refusal may repeat with every delivery, so it counts as a failed one.
            try:
                commit.acks.give_back([commit.tag], counted=not error.is_outage)
            except (OSError, AMQPError) as trouble:  # then RabbitMQ delivers it again anyway
                logger.debug("%s goes back with its connection: %r", commit, trouble)

    def _write_acks(self, group: list[Commit]) -> None:
        for acks in {id(commit.acks): commit.acks for commit in group}.values():
            try:
                acks.flush()
            except (OSError, AMQPError) as error:  # RabbitMQ delivers them again, and the inbox knows them
                logger.debug("acks were lost with their connection: %r", error)

    def decides(self, tag: int) -> bool:
        """
        True if a commit that was added answers this delivery, so that it must not be acked apart.

        Called once per delivery, when Celery acks it. That may be after the commit was sent.
        """
        if tag not in self._tags:
            return False
        self._tags.discard(tag)
        return True

    def settle(self) -> None:
        """Send every commit and every announced event that waits."""
        self.flush()
        self._announcer.work(here=True)
        self._announcer.tell()

    def close(self) -> None:
        """The channel is gone. Waiting commits are sent, and those that come later by their runs themselves."""
        self._closed = True
        self.settle()
        self._daemon.end()
        self._announcer.close()

    def _look(self) -> float:
        """One turn of the thread. Returns the seconds until the next one."""
        now = time.monotonic()
        if self._waiting and now - self._since >= LATEST_SECONDS:
            self.flush(wait=False)
        for token, (claim, began) in list(self._running.items()):
            if now - began >= LONG_SECONDS:
                self._running.pop(token, None)
                self._keep(claim)
        self._is_watched = bool(self._waiting or self._running)
        return LATEST_SECONDS if self._is_watched else IDLE_SECONDS

    def _keep(self, claim: Claim) -> None:
        """Count that the handler has begun, and let its claim hold as long as any other's."""
        try:
            self._ports.store.begin(claim)
        except StoreError as error:
            logger.warning("%s: its claim could not be prolonged: %s", claim.handler, error)
