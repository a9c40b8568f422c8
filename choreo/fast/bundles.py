"""
Bundles: a prefork pool's worker hands several messages to a child at once, straight from the texts that were taken.

*Why.* For each task, Celery's pool writes a request of forty fields into a pipe, and reads two answers from another.
With a very short handler that costs three times as much as everything else. So a message waits here without request and
without being read (`PooledRun`), until a child is free. Then the child gets a bundle of those that wait.

*How large is a bundle?* Messages wait only if all children are busy, so no message waits for a bundle to fill. A free
child gets its fair share of those that wait, at most `MOST_TOGETHER`, and only of handlers whose recent runs were so
short that the whole bundle takes less than `GROUP_SECONDS`. Any other run is alone, as with Celery: after a slow run;
with a time limit; with a limit to the tasks or the memory of a child; if the children are spawned and not forked.

*If a run of a bundle takes long.* The worker looks at the bundles every `LOOK_SECONDS`. It takes the runs back that
wait behind a slow one, and hands them to other children.

*If a child dies*, one run was in hand: it counts as begun, and Celery reports it. The runs before it are done, or their
commits were not sent yet; those behind it have not begun. They all go back to their queue, and do not count. A copy
whose commit was recorded is not in flight any more, so it does not return.
"""

import logging
import math
import re
import weakref
from collections.abc import Sequence
from time import monotonic, time
from typing import Any
from weakref import WeakSet

from billiard.exceptions import Terminated
from celery.worker import state

from choreo.broker.redis.taken import Taken
from choreo.broker.workload import listed
from choreo.events.envelope import REPLAY
from choreo.events.ids import is_uuid, task_id
from choreo.fast.child import Answer, Success, run_bundle
from choreo.fast.in_process import InProcess
from choreo.fast.pooled import PooledRun
from choreo.fast.progress import MOST_TOGETHER, Progress

logger = logging.getLogger(__name__)

#: Seconds that the runs of one bundle take together, as far as the last runs tell.
GROUP_SECONDS = 0.02
#: Seconds. A handler runs alone unless most of its last runs took less.
QUICK_SECONDS = 0.005
#: By these factors the estimate follows a longer and a shorter run, so that one run in seven exceeds it. On a busy
#: machine some runs of each handler take long, since the kernel interrupts them: a mean would follow those few.
_LONGER, _SHORTER = 3.0, 1.2
#: Seconds between two looks at the bundles that are with children.
LOOK_SECONDS = 0.1


#: The text of a message up to the id of its event, as choreo writes it.
_HEAD = re.compile(rb'\{"body": "\[\[\{\\"specversion\\":\\"1\.0\\",\\"id\\":\\"([^"\\]+)\\",')
#: In the texts of messages that go the usual way: replays of dead letters, and redeliveries.
_UNUSUAL = REPLAY.encode(), b'"redelivered": true'


class PooledShortcut:
    """
    The shortcut to one handler in the prefork pool: a `TakenHandler`.

    ``way`` lives until the worker connects anew. Only the head of the text is looked at: the child reads it.
    """

    def __init__(self, way: InProcess, bundles: "Bundles") -> None:
        self._way, self._bundles = way, bundles

    def __call__(self, channel: Any, taken: Taken) -> bool:
        """Fast path; returns True if it handled the message. False: nothing was done, and it goes the usual way."""
        identity = _identity_in(taken) if self._way.is_clear else ""
        if not identity:
            return False
        run_id = task_id(identity, self._way.task.name)
        if run_id in state.revoked:
            return False
        self._bundles.add(PooledRun(self._way, channel, taken, run_id))
        return True


def _identity_in(taken: Taken) -> str:
    """The `Envelope.identity` of the event in a message; "" if this is not a message of the most usual kind."""
    if any(mark in taken.text for mark in _UNUSUAL):
        return ""
    attempt, _, unit = taken.claim.partition(" ")
    if unit:
        return unit if attempt == "1" else ""
    head = _HEAD.match(taken.text)
    event_id = head[1].decode() if head else ""
    return event_id if is_uuid(event_id) else ""


class Bundle:
    """Runs that a child gets as one job of the pool."""

    def __init__(self, bundles: "Bundles", runs: Sequence[PooledRun], slot: int | None) -> None:
        self.runs = runs
        self._bundles, self._slot = bundles, slot
        self.pid: int | None = None
        #: The run that a signal was to end.
        self.target: PooledRun | None = None
        self._withdrawn: set[int] = set()
        self._accepted_at = 0.0
        if slot is not None:
            # The pool also forgets jobs without a word.
            self._free = weakref.finalize(self, bundles.progress.give_back, slot)

    def send(self) -> None:
        """Hand it to the pool."""
        bundles, task = self._bundles, self.runs[0].way.task
        soft = task.soft_time_limit or bundles.soft_time_limit
        jobs = [(run.name, *run.taken.plain(), not soft) for run in self.runs]
        is_told = any(run.way.events is not None for run in self.runs)
        job = bundles.pool.apply_async(
            run_bundle,
            args=(self._slot, jobs, is_told),
            accept_callback=self.accepted,
            callback=self.ended,
            error_callback=self.failed,
            timeout_callback=self.timed_out,
            soft_timeout=task.soft_time_limit if len(self.runs) == 1 else None,
            timeout=task.time_limit if len(self.runs) == 1 else None,
        )
        for index, run in enumerate(self.runs):
            run.sent(self, index, job)
        bundles.going.add(self)

    # -- callbacks of the pool's job -----------------------------------------------------------------------------------

    def accepted(self, pid: int, accepted_at: float) -> None:
        """A child has begun, at this `monotonic` time."""
        self.pid, self._accepted_at = pid, accepted_at
        self.look()

    def ended(self, answers: Sequence[Answer]) -> None:
        """A child has answered for each of its runs."""
        self._close()
        for index, (run, answer) in enumerate(zip(self.runs, answers, strict=True)):
            if index in self._withdrawn:
                continue
            if isinstance(answer, tuple):
                answer = Success(*answer)
                self._bundles.note(run.name, answer.took)
            try:
                run.end(answer)
            except Exception:  # the other runs must end, too
                logger.exception("%s[%s]: the end of its run could not be noted", run.name, run.id)

    def failed(self, failure: Any) -> None:
        """The child has ended, or a limit has ended it."""
        victim: PooledRun | None = self.in_hand() or self.runs[0]
        self._close()
        error = failure.exception
        error = getattr(error, "exc", error)
        if isinstance(error, Terminated) and victim is not self.target:
            victim = None
        for index, run in enumerate(self.runs):
            if index in self._withdrawn:
                continue
            try:
                if run is victim:
                    run.fail(failure)
                else:
                    run.give_back()
            except Exception:
                logger.exception("%s[%s]: the loss of its process could not be noted", run.name, run.id)

    def timed_out(self, soft: bool, timeout: float) -> None:
        """A time limit has passed. Only a bundle of one has any."""
        self.runs[0].request.on_timeout(soft, timeout)

    def _close(self) -> None:
        self._bundles.going.discard(self)
        if self._slot is not None:
            self._free()

    # -- while it is with a child --------------------------------------------------------------------------------------

    def in_hand(self) -> PooledRun | None:
        """The run that the child has begun and that has not ended, as far as the worker knows."""
        self.look()
        count, _ = self._progress()
        return self.runs[count - 1] if count else None

    def _progress(self) -> tuple[int, float]:
        """How many runs have begun, and the `monotonic` time at which the last of them did."""
        if self.pid is None:
            return 0, 0.0
        count, since = self._bundles.progress.begun(self._slot) if self._slot is not None else (0, 0.0)
        return (count, since) if count else (1, self._accepted_at)

    def look(self) -> None:
        """Note in Celery's worker state which run is in hand."""
        count, since = self._progress()
        if not count:
            return
        for index, run in enumerate(self.runs[: count - 1]):
            if index not in self._withdrawn:
                run.begun(self.pid, time())
                state.active_requests.discard(run)
        if count - 1 not in self._withdrawn:
            self.runs[count - 1].begun(self.pid, time() - (monotonic() - since))

    def is_stuck(self) -> bool:
        """True if a run takes so long that those behind it should not wait for it."""
        count, since = self._progress()
        return count < len(self.runs) and bool(count) and monotonic() - since > LOOK_SECONDS

    def take_back(self) -> list[PooledRun]:
        """Take back the runs that have not begun."""
        return [run for index, run in enumerate(self.runs) if self._withdraw(index)]

    def withdraw(self, run: PooledRun) -> None:
        """Take one run back if it has not begun, and deliver its message the usual way."""
        if self._withdraw(run.index):
            run.leave()

    def _withdraw(self, index: int) -> bool:
        slot = self._slot
        if slot is None or index in self._withdrawn or not self._bundles.progress.withdraw(slot, index):
            return False
        self._withdrawn.add(index)
        self.runs[index].taken_back()
        return True


class Bundles:
    """The bundles of one worker. ``consumer`` is Celery's."""

    def __init__(self, consumer: Any, progress: Progress) -> None:
        self.consumer, self.pool, self.progress = consumer, consumer.pool, progress
        self._worker = consumer.controller
        self._semaphore = self._worker.semaphore
        #: The bundles that the pool has. It forgets jobs without a word, and then nothing else may keep their messages.
        self.going: WeakSet[Bundle] = WeakSet()
        #: How long the last runs of each handler took, in seconds: an estimate that six of seven did not exceed.
        self._took: dict[str, float] = {}
        self._next_look = 0.0

    @property
    def soft_time_limit(self) -> float | None:
        """The soft time limit of the pool, in seconds."""
        limit: float | None = self._worker.soft_time_limit
        return limit

    def add(self, run: PooledRun) -> None:
        """Run this as soon as a child is free."""
        run.channel.qos.append(run.message, run.taken.tag)
        state.task_reserved(run)
        self._worker._quick_acquire(self._begin, run)
        if monotonic() > self._next_look:
            self._look_later()

    def note(self, handler: str, took: float) -> None:
        """Note how long a run took."""
        known = self._took.get(handler, took)
        self._took[handler] = min(took, known * _LONGER) if took > known else max(took, known / _SHORTER)

    # -- forming bundles -----------------------------------------------------------------------------------------------

    def _begin(self, run: PooledRun) -> None:
        """A child is free, and this is the first run that waits."""
        runs = [run, *self._more(run)]
        usual = [one for one in runs if one.id in state.revoked]
        runs = [one for one in runs if one not in usual]
        if runs:
            slot = self.progress.take()
            if slot is None:
                for one in reversed(runs[1:]):
                    self._semaphore._waiting.appendleft((self._begin, (one,), {}))
            Bundle(self, runs if slot is not None else runs[:1], slot).send()
        else:
            self._worker._quick_release()
        for one in usual:
            one.leave()

    def _more(self, first: PooledRun) -> list[PooledRun]:
        """The runs that the same child gets: they are no longer among those that wait."""
        waiting = self._semaphore._waiting
        if not waiting or not self._may_share(first):
            return []
        share = min(-(-(len(waiting) + 1) // max(self._semaphore.initial_value, 1)), MOST_TOGETHER)
        seconds = self._took[first.name]
        runs: list[PooledRun] = []
        while waiting and len(runs) + 1 < share:
            callback, args = waiting[0][:2]
            if callback != self._begin or not self._may_share(args[0]):
                break
            seconds += self._took[args[0].name]
            if seconds > GROUP_SECONDS:
                break
            waiting.popleft()
            runs.append(args[0])
        return runs

    def _may_share(self, run: PooledRun) -> bool:
        """True if this run may be one of several."""
        task, worker = run.way.task, self._worker
        is_limited = task.time_limit or task.soft_time_limit or worker.time_limit or worker.soft_time_limit
        is_counted = worker.max_tasks_per_child or worker.max_memory_per_child
        return (
            not (is_limited or is_counted)
            and worker.pool_start_method == "fork"
            and self._took.get(run.name, math.inf) < QUICK_SECONDS
        )

    # -- looking after them --------------------------------------------------------------------------------------------

    def _look_later(self) -> None:
        # A new connection may have cleared the timers of the event loop.
        self._next_look = monotonic() + 10 * LOOK_SECONDS
        self.consumer.hub.call_later(LOOK_SECONDS, self._turn)

    def _turn(self) -> None:
        self.look()
        for bundle in tuple(self.going):
            if bundle.is_stuck():
                for run in bundle.take_back():
                    self._worker._quick_acquire(self._begin, run)
        long_ago = time() - LOOK_SECONDS
        for run in listed(state.reserved_requests):
            if isinstance(run, PooledRun) and run.received_before(long_ago):
                run.tell_started()
        if self.going:
            self._look_later()
        else:
            self._next_look = 0.0

    def look(self) -> None:
        """Note in Celery's worker state which runs are in hand."""
        for bundle in tuple(self.going):
            bundle.look()
