"""
Owners: which consumer holds which messages in flight, and how a dead consumer's messages return.

*Owner and beats.* Each channel that consumes with acks has one `Ownership`. It registers a unique owner in Redis, and
keeps the channel's messages in flight under that owner. A thread beats every third of `timeout`: it tells Redis that
the owner lives. The event loop could not do this, since it may be busy with one task for an hour.

*Death.* An owner that was silent for `timeout` seconds, by the server's clock, is dead. The first consumer that notices
this, with a beat of its own, returns the dead owner's messages to their queues.

*Guarantees.* A message is never given to a second consumer while its owner lives, however long its handler runs. It
returns within seconds of its owner's death. An outage of the server makes no owner count as dead.

*A stopped process* (SIGSTOP) is silent, so its owner counts as dead. When the process continues, its acks name records
that no longer exist, and change nothing. It goes on under a new owner.

*After the channel.* When a Celery worker loses its connection, it closes the channel while handlers still run, and acks
their messages later. `Ownership.retire` keeps the owner alive for these messages, and returns messages that no handler
can ack any more. It ends when no message is left.

*Limit.* In a gevent worker the thread is a greenlet. There the owner of a handler that computes for longer than
`timeout` without yielding counts as dead.
"""

import gc
import logging
import os
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import Any
from uuid import uuid4

from redis import exceptions
from redis.exceptions import RedisError

from choreo import forks
from choreo.broker.redis import scripts
from choreo.broker.redis.keys import Keys
from choreo.broker.redis.orphans import Orphans
from choreo.broker.redis.packing import redelivered
from choreo.daemon import Daemon
from choreo.redis_client.refusals import explained
from choreo.redis_client.wire import Wire

logger = logging.getLogger("choreo.broker")

#: Default of the transport option `consumer_timeout`: seconds of silence after which a consumer counts as dead.
CONSUMER_TIMEOUT = 15.0

#: How many messages one script call returns.
PAGE = 200

#: Seconds until the next beat after a failed one, so that a short outage does not make a live owner count as dead.
RETRY_SECONDS = 1.0

#: Seconds between two looks of a retired owner for messages that no handler can ack any more.
RETIRED_SECONDS = 1.0

#: Log message: a key of another type has the name of a queue.
NO_LIST = (
    "the key %s in Redis is no list, so no message can be taken from that queue, put into it or returned to it. "
    "Rename or delete the key. Any other program on this Redis needs a database or a global_keyprefix of its own"
)


@dataclass(frozen=True)
class Return:
    """Messages that the thread is to return. ``untouched``: the tags of those that were never delivered."""

    tags: Sequence[str]
    counted: bool = False
    untouched: Collection[str] = ()
    #: How often to look for them.
    times: int = 1


class Tag(str):
    """A delivery tag that a weak reference can watch. Once the tag is collected, its message can no longer be acked."""

    __slots__ = ("__weakref__",)


def new_owner(timeout: float, at_a_time: int = 1) -> str:
    """
    The id of a new owner: ``host-pid-random-at_a_time-timeout``, with the timeout in ms.

    Host and pid are for people. The scripts read the last two numbers: how many messages the owner handles at the same
    time, at most, and after how long a silence it is dead.
    """
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}-{at_a_time}-{int(timeout * 1000)}"


class Ownership:
    """The owner of one consumer's messages in flight: its beats, its acks, and the return of its messages."""

    def __init__(self, wire: Wire, keys: Keys, timeout: float = CONSUMER_TIMEOUT, at_a_time: int = 1) -> None:
        self.keys = keys
        self.timeout = timeout
        self._at_a_time = at_a_time
        self.owner = new_owner(timeout, at_a_time)
        #: (exchange, type, member of its binding set) of each consumed queue: `repair_bindings` makes lost ones again.
        self.bindings: tuple[tuple[str, str, str], ...] = ()
        #: The epoch of the bindings that this consumer knows: see lua/bind.lua.
        self.epoch = ""
        self._wire = wire
        self._acks: deque[str] = deque()
        #: True if an ack was noted that must not wait for the next take.
        self.has_urgent_acks = False
        self._held: list[weakref.ref[Tag]] = []
        #: Messages that the thread returns.
        self._returns: deque[Return] = deque()
        self._logged: set[str] = set()
        self._orphans = Orphans(wire, keys, self.timeout)
        self._retired = False
        self._leaving = False
        self._is_forked = False
        self._failing = False
        self._forced_collections = 3
        self._last_beat = float("-inf")
        self._beating = threading.Lock()
        self._heart = Daemon(f"choreo-heart-{self.owner}", self._turn, timeout / 3, self._log_unexpected)
        self._on_start: Callable[[Wire], None] | None = None
        self._on_turn: Callable[[Wire], None] | None = None
        forks.guard(self)

    # -- life ------------------------------------------------------------------------------------------------------

    def start(
        self, on_start: Callable[[Wire], None] | None = None, on_turn: Callable[[Wire], None] | None = None
    ) -> None:
        """Register the owner and start its thread, which first calls ``on_start``, and ``on_turn`` with each beat."""
        self._register()
        self._on_start, self._on_turn = on_start, on_turn
        self._heart.start()
        self._heart.wake()

    def _register(self) -> None:
        started = monotonic()
        self._wire.call(
            scripts.BEAT,
            [self.keys.consumers, self.keys.inflight(self.owner)],
            [self.owner, int(self.timeout * 1000), "1"],
        )
        self._last_beat = started

    def _turn(self) -> float:
        """One turn of the thread. Returns the seconds until the next one."""
        if self._on_start is not None:
            look, self._on_start = self._on_start, None
            self._guarded(partial(look, self._wire))
            return self.timeout / 3
        if not self._guarded(self.beat):
            return min(RETRY_SECONDS, self.timeout / 3)
        if not self._retired:
            self._guarded(self._catch_up)
            self._guarded(self.repair_bindings)
            if self._on_turn is not None:
                self._guarded(partial(self._on_turn, self._wire))
            self._guarded(self._orphans.look)
            for owner in self._orphans.due():
                if self._guarded(partial(self._recover_if_possible, owner)):
                    self._orphans.forget(owner)
            hurry = self._returns or not self._orphans.looked
            return min(RETRY_SECONDS, self.timeout / 3) if hurry else self.timeout / 3
        self._guarded(self._catch_up)
        self._guarded(self._wind_up)
        return min(RETIRED_SECONDS, self.timeout / 3)

    def _log_unexpected(self, error: Exception) -> None:
        self._log_once("the thread of consumer %s met an unexpected error, and goes on", self.owner, error)

    def _guarded(self, step: Callable[[], Any]) -> bool:
        """Run a step. True if it succeeded. An error is logged once; it must not end the thread and so the owner."""
        try:
            step()
        except (RedisError, OSError) as exc:
            if not self._failing:
                logger.warning("consumer %s cannot reach Redis (%s); it keeps trying", self.owner, explained(exc))
            self._failing = True
            return False
        except Exception as exc:
            self._log_unexpected(exc)
            return False
        if self._failing:
            logger.info("consumer %s reaches Redis again", self.owner)
        self._failing = False
        return True

    def beat(self) -> None:
        """
        Tell Redis that the owner lives, and return the messages of dead owners.

        Takes a new owner if Redis does not know this one any more.
        """
        with self._beating:
            started = monotonic()
            known, *dead = self._wire.call(
                scripts.BEAT,
                [self.keys.consumers, self.keys.inflight(self.owner)],
                [self.owner, int(self.timeout * 1000), "0"],
            )
            if known:
                self._last_beat = started
            elif not (self._retired or self._leaving):
                self.begin_anew()
        for owner in dead:
            self._recover_if_possible(owner.decode())

    def _recover_if_possible(self, owner: str) -> None:
        """Recover an owner's messages. Only a broken connection raises: those of other owners must be recovered too."""
        try:
            self.recover(owner)
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError):
            raise
        except Exception as exc:
            self._log_once("the messages of the dead consumer %s cannot be returned now; it is tried again", owner, exc)

    def _log_once(self, text: str, about: str, exc: Exception | None) -> None:
        line = text % about + repr(exc)
        if line not in self._logged:
            self._logged.add(line)
            logger.error(text, about, exc_info=exc)

    def is_fresh(self) -> bool:
        """True if the last beat is younger than the timeout, so that no consumer can have found this owner dead."""
        return monotonic() - self._last_beat < self.timeout

    def begin_anew(self) -> None:
        """Go on under a new owner: this one was found dead, or Redis has lost its memory."""
        logger.warning(
            "consumer %s is not registered any more (it was silent for more than %g s, or Redis lost its memory); "
            "its messages in flight are no longer its own, and it goes on under a new name",
            self.owner,
            self.timeout,
        )
        self.owner = new_owner(self.timeout, self._at_a_time)
        self._register()

    # -- acks ------------------------------------------------------------------------------------------------------

    def ack(self, tag: str, *, urgent: bool = True) -> None:
        """Note an ack. The next take sends it, or `flush`. ``urgent``: it must not wait long for a take."""
        self._acks.append(tag)
        self.has_urgent_acks = self.has_urgent_acks or urgent
        if self._retired:
            self._heart.wake()

    @property
    def has_acks(self) -> bool:
        """True if acks are noted and not sent yet."""
        return bool(self._acks)

    def take_acks(self) -> list[str]:
        """The noted acks, which the caller must send. Acks of an earlier owner are dropped: their records are gone."""
        acks, mine = [], f"{self.owner}:"
        self.has_urgent_acks = False
        # The consumer and the thread both take acks, so the deque may be empty at any moment.
        with suppress(IndexError):
            while True:
                tag = self._acks.popleft()
                if tag.startswith(mine):
                    acks.append(tag)
        return acks

    def put_back_acks(self, acks: Iterable[str]) -> None:
        """Note acks again that could not be sent. Sending an ack twice is harmless."""
        self._acks.extend(acks)
        self.has_urgent_acks = bool(self._acks)

    def flush(self, wire: Wire | None = None) -> None:
        """Send the noted acks now."""
        acks = self.take_acks()
        if acks and not self._is_forked:
            call = partial((wire or self._wire).call, scripts.ACK, [self.keys.inflight(self.owner)], acks)
            try:
                try:
                    call()
                except exceptions.ConnectionError:
                    # The server may have been restarted just now. Acks may be repeated, so this is no error yet.
                    call()
            except BaseException:
                self.put_back_acks(acks)
                raise

    # -- giving back -----------------------------------------------------------------------------------------------

    def give_back(self, tags: Collection[str], *, counted: bool, untouched: Collection[str] = ()) -> int:
        """
        Return some messages to the front of their own queues, in their original order.

        ``counted``: they were begun, which is noted in Redis and counts as a failed delivery. ``untouched``: the tags
        of those that were never delivered; they return unchanged. Returns the number of messages.
        """
        return self._return(self.owner, tags, exclude=False, counted=counted, untouched=untouched, must_be_dead=False)

    def recover(self, owner: str) -> None:
        """Return all messages of an owner, if it is dead by the server's clock."""
        count = self._return(owner, (), exclude=True, counted=True, untouched=(), must_be_dead=True)
        if count:
            logger.warning("consumer %s is dead: %d message(s) went back to their queues", owner, count)

    def leave(self, untouched: Collection[str] = ()) -> None:
        """Send the last acks, return all other messages, and end. ``untouched``: tags that were never delivered."""
        if self._is_forked or self._heart.is_stopped:
            return
        with self._beating:
            # From here on a beat must not take a new owner: the messages to return are under this one.
            self._leaving, owner = True, self.owner
        acks, inflight = self.take_acks(), self.keys.inflight(owner)
        try:
            if self._wire.call(scripts.LEAVE, [self.keys.consumers, inflight], [owner, *acks]):
                self._return(owner, (), exclude=True, counted=False, untouched=untouched, must_be_dead=False)
        except BaseException:
            self.put_back_acks(acks)
            raise
        self._heart.end()
        self._wire.close()

    def return_soon(self, tags: list[str], *, counted: bool = False) -> None:
        """Let the thread return delivered messages as soon as it can."""
        self._return_later(Return(tags, counted=counted))

    def return_lost(self, tags: list[str]) -> None:
        """Return the messages that a take may have moved, when its answer got lost."""
        # The server may run the take after this process gave up on it, so the thread looks three times.
        self._return_later(Return(tags, untouched=tags, times=3))

    def _return_later(self, what: Return) -> None:
        self._returns.append(what)
        self._heart.wake()

    def _catch_up(self) -> None:
        # Acks that could not be sent before, and whose channel takes no more.
        self.flush()
        for _ in range(len(self._returns)):
            back = self._returns[0]
            self.give_back(back.tags, counted=back.counted, untouched=back.untouched)
            self._returns.popleft()
            if back.times > 1:
                self._returns.append(replace(back, times=back.times - 1))

    def _return(
        self,
        owner: str,
        tags: Collection[str],
        *,
        exclude: bool,
        counted: bool,
        untouched: Collection[str],
        must_be_dead: bool,
    ) -> int:
        """
        Return messages page by page, the newest first, so that the oldest ends up at the front of its queue.

        ``tags`` are the messages to return; with ``exclude``, all but these. Each message is read, marked here as
        redelivered, and moved by a script that writes the marked text and removes the record in flight in one step. The
        record stays until then, so a crash loses no message.
        """
        inflight, total, stuck = self.keys.inflight(owner), 0, list[str]()
        names = [self.keys.consumers, inflight, self.keys.begun(owner)]
        whose = "1" if must_be_dead else "2" if counted else "0"
        while True:
            listed = [*tags, *stuck] if exclude else [tag for tag in tags if tag not in stuck]
            found: list[bytes] = self._wire.call(scripts.PEEK, [inflight], [PAGE, "1" if exclude else "0", *listed])
            moves: list[str] = []
            for tag, text in zip(found[::2], found[1::2], strict=True):
                name = tag.decode()
                moves += (name, "" if name in untouched else redelivered(text, counted=counted))
            given, *left = self._wire.call(scripts.GIVE_BACK, names, [owner, whose, *moves])
            total += max(int(given), 0)
            stuck += [tag.decode() for tag in left[::2]]
            for queue in dict.fromkeys(left[1::2]):
                self._log_once(NO_LIST, queue.decode(), None)
            if given < 0 or len(moves) < 2 * PAGE:
                break
        if stuck and not exclude:
            # As long as this owner lives, no other consumer returns them.
            self._returns.append(Return(stuck, counted, [tag for tag in stuck if tag in untouched]))
        return total

    # -- after the channel -----------------------------------------------------------------------------------------

    def retire(self, held: Iterable[Tag]) -> None:
        """Stay alive for the messages in ``held``, whose handlers still run. The thread returns all others."""
        self._held = [weakref.ref(tag) for tag in held]
        self._retired = True
        self._heart.wake()

    def _wind_up(self) -> None:
        self.flush()
        held = self._still_held()
        if held and self._forced_collections:
            # A dropped request may be part of a reference cycle, which keeps its tag alive until a collection.
            self._forced_collections -= 1
            gc.collect()
            held = self._still_held()
        self.flush()
        if not held or self._wire.command("HLEN", self.keys.inflight(self.owner)) == 0:
            # A traceback may keep a tag alive after its message was acked: no message in flight means the end.
            self.leave()
        else:
            self._return(self.owner, held, exclude=True, counted=False, untouched=(), must_be_dead=False)

    def _still_held(self) -> list[str]:
        self._held = [ref for ref in self._held if ref() is not None]
        return [str(tag) for ref in self._held if (tag := ref()) is not None]

    # -- lost bindings ---------------------------------------------------------------------------------------------

    def repair_bindings(self) -> None:
        """Make the bindings of this consumer's queues again if Redis has lost any."""
        bindings = self.bindings
        if not bindings:
            return
        epoch, restored = bind(self._wire, self.keys, bindings, repair=True, epoch=self.epoch)
        self.epoch = epoch
        if restored:
            logger.warning(
                "Redis has lost its memory (a restart without persistence, FLUSHALL, or eviction): "
                "%d binding(s) were missing and are declared again. Events published meanwhile are lost. "
                "Set `appendonly yes` and `maxmemory-policy noeviction`",
                restored,
            )

    # -- fork ------------------------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """Forget the acks in a forked child: messages, thread and socket belong to the parent."""
        self._is_forked = True
        self._acks = deque()
        self._beating = threading.Lock()


def bind(
    wire: Wire, keys: Keys, bindings: Collection[tuple[str, str, str]], *, repair: bool = False, epoch: str = ""
) -> tuple[str, int]:
    """
    Write bindings, each (exchange, type, member). With ``repair``, only if Redis has lost some since ``epoch``.

    Returns the current epoch, and how many bindings were missing.
    """
    names: list[str] = [keys.bound, keys.exchanges]
    args: list[str] = ["1" if repair else "0", epoch, uuid4().hex]
    for exchange, kind, member in bindings:
        names += (f"{keys.prefix}_kombu.binding.{exchange}", keys.routes(exchange))
        args += (exchange, kind, member)
    current, added = wire.call(scripts.BIND, names, args)
    return current.decode(), added
