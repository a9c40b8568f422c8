"""The binding keeper: removes bindings that no worker of a service declares any more.

Otherwise a handler that once listened to ``order.*`` would get those events for ever.

Old and new versions of a service run side by side during a deployment. So a worker does not decide by its own code
alone: while it lives, it reports its bindings in the store. A binding is stale if no live worker declares it. It is
removed when the last old worker has stopped, or has been silent for `TTL` seconds. Until then the queue gets the events
of both versions.

A queue is never deleted, because its messages may be wanted. A queue whose handler is gone is named in the log, as long
as something is in it or can still come to it: a dead letter that is replayed, a retry, a deadline of a join.

`choreo topology retire` removes a handler for good. A worker that is there when that begins works off the queue, which
gets no more events. A worker that starts later and declares the handler calls it back: it is bound as before, since a
version that was rolled back must not miss events. The log says both.
"""

import logging
import time
from collections.abc import Mapping, Sequence

from choreo.broker.bindings import Bindings
from choreo.daemon import Daemon
from choreo.delivery.undeclared import UndeclaredHandler, UndeclaredHandlers
from choreo.errors import StoreError
from choreo.events.patterns import Binding
from choreo.printing import one_line
from choreo.store.register import Declared, Register

logger = logging.getLogger(__name__)

#: Seconds of silence after which a worker's declarations no longer count.
TTL = 60.0
#: Seconds between two looks.
INTERVAL = 15.0
#: Seconds between two looks for undeclared handlers.
UNDECLARED_INTERVAL = 60.0
#: Seconds between two looks at a queue that is being deleted.
LOOK_AGAIN = 0.5
#: Seconds after which an undeclared handler is named again although nothing about it has changed.
REMINDER = 3600.0


class BindingKeeper:
    """
    Reports the bindings of one worker, and removes stale bindings of its service.

    ``worker`` is an id that no other worker has. ``patterns`` maps each of its queues to the patterns it is bound to.
    ``undeclared`` finds the handlers that are gone. `start` looks every `INTERVAL` seconds, in a thread, until `stop`.
    """

    def __init__(
        self,
        service: str,
        worker: str,
        patterns: Mapping[str, Sequence[str]],
        register: Register,
        bindings: Bindings,
        undeclared: UndeclaredHandlers,
    ) -> None:
        self._service, self._worker = service, worker
        self._declared: list[Binding] = [(queue, pattern) for queue in patterns for pattern in patterns[queue]]
        self._register, self._bindings = register, bindings
        self._undeclared = undeclared
        self._report_at = 0.0
        #: The undeclared handlers that were named, by name, and the time of it.
        self._reported: dict[str, tuple[UndeclaredHandler, float]] = {}
        self._began = False
        #: The queues of handlers that are being retired.
        self._drained: frozenset[str] = frozenset()
        self._daemon = Daemon("choreo-bindings", self.look, INTERVAL)

    def start(self) -> None:
        """Start the thread."""
        self._daemon.start()

    def look(self) -> None:
        """Report, and remove stale bindings, once. A failure is logged, and the next look repeats it."""
        try:
            self._look()
        except StoreError as error:
            logger.warning("stale bindings stay until this is mended: %s", error)
        except Exception as error:  # the brokers' clients raise many kinds of errors
            logger.warning("stale bindings stay, since the broker did not remove them: %r", error)

    def _look(self) -> None:
        answer = self._register.declare(self._service, self._worker, self._declared, TTL)
        while answer.wait:
            # `choreo topology retire` is just deleting one of its queues, which this worker is about to make again.
            time.sleep(min(answer.wait, LOOK_AGAIN))
            answer = self._register.declare(self._service, self._worker, self._declared, TTL)
        self._follow_retirements(answer)
        if self._began:
            # Another worker may have removed one of these bindings while this one was silent for too long, or just
            # before it reported. That worker makes it again, unless it is killed or the store fails in between.
            self._bindings.ensure([binding for binding in self._declared if binding[0] not in answer.drained])
        self._began = True
        if answer.stale:
            self._bindings.remove(answer.stale)
            for queue, pattern in answer.stale:
                logger.warning(
                    "unbound %s from %s, since no worker declares it any more. Are its workers still to come? Then "
                    "`choreo topology apply` binds it until they start (--hold)",
                    queue,
                    pattern,
                )
            answer = self._register.declare(self._service, self._worker, self._declared, TTL, removed=answer.stale)
            if answer.to_restore:
                self._bindings.make(answer.to_restore)
                for queue, pattern in answer.to_restore:
                    logger.warning("bound %s to %s again, since it was declared meanwhile", queue, pattern)
        if time.monotonic() >= self._report_at:
            self._report()
            self._report_at = time.monotonic() + UNDECLARED_INTERVAL

    def _follow_retirements(self, answer: Declared) -> None:
        for mark in answer.called_back:
            logger.warning(
                "the handler of queue %s %s (%s), and this worker declares it: it gets its events again. Retire it "
                "once no worker runs this version",
                mark.queue,
                "was retired" if mark.is_over else "was being retired",
                one_line(mark.record),
            )
        # Its consumer binds them again whenever it has lost its connection.
        if answer.drained:
            self._bindings.remove([binding for binding in self._declared if binding[0] in answer.drained])
        for queue in answer.drained:
            if queue not in self._drained:
                logger.warning("the handler of queue %s is being retired: this worker works off what waits", queue)
        self._drained = frozenset(answer.drained)

    def _report(self) -> None:
        now = time.monotonic()
        for gone in self._undeclared.find(self._service):
            before, at = self._reported.get(gone.handler, (None, 0.0))
            # Without an answer of the broker there may be nothing left, and the next look tells.
            if gone.messages is None or (gone == before and now < at + REMINDER):
                continue
            self._reported[gone.handler] = gone, now
            logger.warning(
                "no worker declares the handler of queue %s any more: it gets no more events, and no worker reads it. "
                "Still there: %s. Declare the handler again (name=... if it was renamed), or remove it for good: "
                "`choreo topology retire %s`.",
                gone.queue,
                gone,
                gone.handler,
            )

    def stop(self) -> None:
        """Stop the thread (waiting 5 seconds at most), report the end of this worker, and close the connection."""
        self._daemon.stop()
        self.retire()
        self._bindings.close()

    def retire(self) -> None:
        """Report that this worker declares nothing any more. A failure is logged."""
        try:
            self._register.declare(self._service, self._worker, (), 0)
        except StoreError as error:
            logger.warning("this worker counts as alive for %g s more: %s", TTL, error)
