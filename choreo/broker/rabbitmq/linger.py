"""
Linger: a worker whose deliveries come in quick succession waits for the next ones, and handles them together.

The name is Kafka's, whose producers do the same.

Claims, commits, confirms and acks cost as much for one event as for twenty. A worker that reads each delivery as it
comes pays them for each, and is awake all the time. So if deliveries come quickly, but one by one, the connection is
not read for `WINDOW` seconds after the first. Whether that pays is seen by what has come: after a wait in vain there is
none for a while, and for twice as long after the next one, `MOST_PAUSE` at most. So if waiting never pays, one event
waits in vain in that time; and none does while few come.

Nothing waits either if RabbitMQ may not send much more before an ack (`ROOM`): it would wait for the worker, and the
worker for it.
"""

from collections import deque
from time import monotonic

#: Seconds for which the first delivery waits for others.
WINDOW = 0.01
#: Deliveries are quick if so many of them came within as many windows. Fewer would be a few orders that a hiccup of the
#: broker has held up, and each of their steps would wait once more.
QUICK = 32
#: So many that have arrived together do not wait for more.
ENOUGH = 6
#: The smallest prefetch of a consumer whose deliveries wait: twice as many as are committed and acked together.
ROOM = 64
#: Seconds without waiting after a wait in vain: after the first in a row, and at most.
FIRST_PAUSE, MOST_PAUSE = 0.05, 1.0


class Linger:
    """Decides whether what has arrived waits for more. It sees each delivery of one connection."""

    def __init__(self) -> None:
        #: When each of the last deliveries came.
        self._came: deque[float] = deque(maxlen=QUICK)
        self._not_before, self._pause = 0.0, FIRST_PAUSE

    def arrived(self, count: int) -> None:
        """Note so many deliveries that have just been read."""
        self._came.extend([monotonic()] * min(count, QUICK))

    def pays(self, count: int) -> bool:
        """True if it is worth while to wait for more than the ``count`` deliveries that wait to be handled."""
        came = self._came
        if not 0 < count < ENOUGH or len(came) < QUICK:
            return False
        now = monotonic()
        return now >= self._not_before and now - came[0] < QUICK * WINDOW

    def waited(self, *, in_vain: bool) -> None:
        """Note how a wait has ended."""
        if in_vain:
            self._not_before = monotonic() + self._pause
            self._pause = min(2 * self._pause, MOST_PAUSE)
        else:
            self._pause = FIRST_PAUSE
