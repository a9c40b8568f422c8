"""
Who owns the messages that are in flight.

Each channel that consumes with acks has one `Ownership`. It registers a unique owner in Redis, and a thread of its
own says every few seconds that the owner lives; the event loop may be busy with a task of an hour meanwhile.
An owner that was silent for `timeout` seconds by the *server's* clock is dead, and whoever notices first gives its
messages back. So a message is never given to a second consumer while its owner lives, however long its handler runs,
and comes back within seconds of its owner's death. When the server itself was away, nobody is taken for dead.
A stopped process (SIGSTOP) is silent, hence dead: when it continues, its acks name records that no longer exist,
which changes nothing, and it carries on under a new name.

In gevent workers the thread is a greenlet: there a handler that computes for longer than `timeout`
without yielding counts as dead.

An ownership can outlive its channel. When a Celery worker loses its connection, it closes the channel while handlers
still run, and acks their messages later. `retire()` keeps the owner alive for them, gives back what no handler can
ack any more, and ends when nothing is left.
"""

import gc
import logging
import os
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
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
from choreo.redis_client.wire import Wire

logger = logging.getLogger("choreo.broker")

#: Seconds of silence after which a consumer counts as dead, if the transport option `consumer_timeout` says nothing.
CONSUMER_TIMEOUT = 15.0

#: How many messages are given back by one script call.
PAGE = 200

#: After a failed beat the next one comes sooner, so that a short outage does not make a living owner look dead.
RETRY_SECONDS = 1.0

#: A retired owner looks for messages that nobody can ack any more this often.
RETIRED_SECONDS = 1.0

#: What is said of a key that somebody put in the place of a queue.
NO_LIST = (
    "the key %s in Redis is no list, so that nothing can be taken from that queue, put into it or returned to it. "
    "Rename or delete the key: whatever else uses this Redis needs a database or a global_keyprefix of its own"
)


class Tag(str):
    """A delivery tag that can be watched: once nobody holds it, nobody can ack the message any more."""

    __slots__ = ("__weakref__",)


def new_owner(timeout: float, at_a_time: int = 1) -> str:
    """
    A name that no other consumer ever has, that tells people where to look, and others how patient to be.

    It also tells whoever finds it dead with how many messages, of all that it had taken, it was busy at most.
    """
    return f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:12]}-{at_a_time}-{int(timeout * 1000)}"


class Ownership:
    """One consumer's claim on the messages it has taken."""

    def __init__(self, wire: Wire, keys: Keys, timeout: float = CONSUMER_TIMEOUT, at_a_time: int = 1) -> None:
        self.keys = keys
        self.timeout = timeout
        self._at_a_time = at_a_time
        self.owner = new_owner(timeout, at_a_time)
        #: (exchange, type, member of its binding set) of each queue consumed, for the day Redis loses its memory.
        self.bindings: tuple[tuple[str, str, str], ...] = ()
        self.epoch = ""
        self._wire = wire
        self._acks: deque[str] = deque()
        self.has_urgent_acks = False
        self._held: list[weakref.ref[Tag]] = []
        #: What goes back as soon as Redis lets us: (tags, whether that counts, how often to look for them).
        self._returns: deque[tuple[list[str], bool, int]] = deque()
        self._said: set[str] = set()
        self._orphans = Orphans(wire, keys, self.timeout)
        self._retired = False
        self._leaving = False
        self._foreign = False
        self._failing = False
        self._forced_collections = 3
        self._last_beat = float("-inf")
        self._beating = threading.Lock()
        self._heart = Daemon(f"choreo-heart-{self.owner}", self._turn, timeout / 3, self._stumbled)
        self._on_start: Callable[[Wire], None] | None = None
        forks.guard(self)

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self, on_start: Callable[[Wire], None] | None = None) -> None:
        """Register the owner, then keep reporting that it lives. The thread first calls ``on_start``."""
        self._register()
        self._on_start = on_start
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
            self._guarded(self._orphans.look)
            for owner in self._orphans.due():
                if self._guarded(partial(self._bury_if_possible, owner)):
                    self._orphans.forget(owner)
            hurry = self._returns or not self._orphans.looked
            return min(RETRY_SECONDS, self.timeout / 3) if hurry else self.timeout / 3
        self._guarded(self._wind_up)
        return min(RETIRED_SECONDS, self.timeout / 3)

    def _stumbled(self, error: Exception) -> None:
        self._say_once("the heart of consumer %s stumbled, and goes on", self.owner, error)

    def _guarded(self, step: Callable[[], Any]) -> bool:
        """Do a step; say once, not at each turn, what keeps us from it. Nothing ends the thread: silent is dead."""
        try:
            step()
        except (RedisError, OSError) as exc:
            if not self._failing:
                logger.warning("consumer %s cannot reach Redis (%s); it keeps trying", self.owner, exc)
            self._failing = True
            return False
        except Exception as exc:
            self._stumbled(exc)
            return False
        if self._failing:
            logger.info("consumer %s reaches Redis again", self.owner)
        self._failing = False
        return True

    def beat(self) -> None:
        """Say that the owner lives, and give back the messages of owners that do not."""
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
                self.renew()
        for owner in dead:
            self._bury_if_possible(owner.decode())

    def _bury_if_possible(self, owner: str) -> None:
        """What is wrong with one dead owner's messages must not keep those of the others, nor this consumer's own."""
        try:
            self.bury(owner)
        except (exceptions.ConnectionError, exceptions.TimeoutError, OSError):
            raise
        except Exception as exc:
            self._say_once("what the dead consumer %s had in flight cannot be returned; it is tried again", owner, exc)

    def _say_once(self, text: str, about: str, exc: Exception | None) -> None:
        said = text % about + repr(exc)
        if said not in self._said:
            self._said.add(said)
            logger.error(text, about, exc_info=exc)

    def is_fresh(self) -> bool:
        """Whether nobody can have taken this owner for dead: its last beat is younger than the timeout."""
        return monotonic() - self._last_beat < self.timeout

    def renew(self) -> None:
        """Carry on under a new name: this owner was taken for dead, or Redis has lost its memory."""
        logger.warning(
            "consumer %s is not registered any more (it was silent for more than %g s, or Redis lost its memory); "
            "what it had in flight is no longer its own, and it carries on under a new name",
            self.owner,
            self.timeout,
        )
        self.owner = new_owner(self.timeout, self._at_a_time)
        self._register()

    # -- acks ------------------------------------------------------------------------------------------------------

    def ack(self, tag: str, *, urgent: bool = True) -> None:
        """Note an ack; it travels with the next take, or with `flush`. ``urgent`` if it should not wait for a take."""
        self._acks.append(tag)
        self.has_urgent_acks = self.has_urgent_acks or urgent
        if self._retired:
            self._heart.wake()

    @property
    def has_acks(self) -> bool:
        return bool(self._acks)

    def take_acks(self) -> list[str]:
        """The noted acks, for the caller to send. Acks of an earlier name are dropped: their records are gone."""
        acks, mine = [], f"{self.owner}:"
        self.has_urgent_acks = False
        # The consumer and the thread both take: what is there a moment before need not be there any more.
        with suppress(IndexError):
            while True:
                tag = self._acks.popleft()
                if tag.startswith(mine):
                    acks.append(tag)
        return acks

    def put_back_acks(self, acks: Iterable[str]) -> None:
        """Keep acks that could not be sent; sending one twice is harmless."""
        self._acks.extend(acks)
        self.has_urgent_acks = bool(self._acks)

    def flush(self, wire: Wire | None = None) -> None:
        """Send the noted acks now."""
        acks = self.take_acks()
        if acks and not self._foreign:
            call = partial((wire or self._wire).call, scripts.ACK, [self.keys.inflight(self.owner)], acks)
            try:
                try:
                    call()
                except exceptions.ConnectionError:
                    # The server may just have been restarted. Acks may be repeated, so nobody need hear of it.
                    call()
            except BaseException:
                self.put_back_acks(acks)
                raise

    # -- giving back -----------------------------------------------------------------------------------------------

    def give_back(self, tags: Collection[str], *, counted: bool, untouched: Collection[str] = ()) -> int:
        """
        Return some messages to the front of their own queues, in their original order.

        ``counted`` if they were begun, which is noted. ``untouched`` are those that were not even delivered.
        """
        return self._return(self.owner, tags, exclude=False, counted=counted, untouched=untouched, must_be_dead=False)

    def bury(self, owner: str) -> None:
        """Return everything that a dead owner had in flight."""
        count = self._return(owner, (), exclude=True, counted=True, untouched=(), must_be_dead=True)
        if count:
            logger.warning("consumer %s is dead: %d message(s) went back to their queues", owner, count)

    def leave(self, untouched: Collection[str] = ()) -> None:
        """Send the last acks, return everything else and end. `untouched` are tags that were never delivered."""
        if self._foreign or self._heart.is_stopped:
            return
        with self._beating:
            # From here on no beat may find the name gone and take another: what is in flight is under this one.
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

    def return_soon(self, tags: list[str], *, counted: bool = False, times: int = 1) -> None:
        """Return messages from the thread, as soon as Redis lets it."""
        self._returns.append((tags, counted, times))
        self._heart.wake()

    def return_lost(self, tags: list[str]) -> None:
        """Return what a take may have moved although its answer never came."""
        # The server may carry out a command after we gave up on it, so it is looked for more than once.
        self.return_soon(tags, times=3)

    def _catch_up(self) -> None:
        # Acks that could not be sent when they were made, by a caller that does not read any more.
        self.flush()
        for _ in range(len(self._returns)):
            tags, counted, times = self._returns[0]
            self.give_back(tags, counted=counted, untouched=() if counted else tags)
            self._returns.popleft()
            if times > 1:
                self._returns.append((tags, counted, times - 1))

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
        Return messages page by page, the newest first, so that the oldest ends up at the very front.

        A message is read, marked here, and moved by a script that puts the marked text in place of its record.
        Its record stays until then, so a crash in between loses nothing.
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
                self._say_once(NO_LIST, queue.decode(), None)
            if given < 0 or len(moves) < 2 * PAGE:
                break
        if stuck and not exclude:
            # Nobody else looks for them as long as this owner lives.
            self._returns.append((stuck, counted, 1))
        return total

    # -- after the channel -----------------------------------------------------------------------------------------

    def retire(self, held: Iterable[Tag]) -> None:
        """Live on for the messages whose handlers still run; everything else goes back."""
        self._held = [weakref.ref(tag) for tag in held]
        self._retired = True
        self._heart.wake()

    def _wind_up(self) -> None:
        self.flush()
        held = self._still_held()
        if held and self._forced_collections:
            # A dropped request may wait in a reference cycle; its message should not wait as well.
            self._forced_collections -= 1
            gc.collect()
            held = self._still_held()
        self.flush()
        if not held or self._wire.command("HLEN", self.keys.inflight(self.owner)) == 0:
            # A tag may live on in some traceback; what counts is whether a message hangs on it.
            self.leave()
        else:
            self._return(self.owner, held, exclude=True, counted=False, untouched=(), must_be_dead=False)

    def _still_held(self) -> list[str]:
        self._held = [ref for ref in self._held if ref() is not None]
        return [str(tag) for ref in self._held if (tag := ref()) is not None]

    # -- memory ----------------------------------------------------------------------------------------------------

    def repair_bindings(self) -> None:
        """Re-assert the bindings of this consumer's queues if Redis has lost any."""
        bindings = self.bindings
        if not bindings:
            return
        epoch, restored = bind(self._wire, self.keys, bindings, repair=True, epoch=self.epoch)
        self.epoch = epoch
        if restored:
            logger.warning(
                "Redis has lost its memory (a restart without persistence, FLUSHALL, or eviction): "
                "%d binding(s) were missing and are declared again. Events published meanwhile were not kept. "
                "Set `appendonly yes` and `maxmemory-policy noeviction`",
                restored,
            )

    # -- fork ------------------------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        # The messages, the thread and the socket belong to the parent.
        self._foreign = True
        self._acks = deque()
        self._beating = threading.Lock()


def bind(
    wire: Wire, keys: Keys, bindings: Collection[tuple[str, str, str]], *, repair: bool = False, epoch: str = ""
) -> tuple[str, int]:
    """Write bindings, each (exchange, type, member). Returns the epoch and how many were missing."""
    names: list[str] = [keys.bound, keys.exchanges]
    args: list[str] = ["1" if repair else "0", epoch, uuid4().hex]
    for exchange, kind, member in bindings:
        names += (f"{keys.prefix}_kombu.binding.{exchange}", keys.routes(exchange))
        args += (exchange, kind, member)
    current, added = wire.call(scripts.BIND, names, args)
    return current.decode(), added
