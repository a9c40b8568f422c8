"""
The answers of a consumer to its deliveries: acks, and deliveries that go back to their queue.

RabbitMQ numbers the deliveries of a channel from 1, and one ``basic.ack`` with ``multiple`` answers all of them up to a
number. So acks are collected, and written together: one frame for all deliveries up to the first that is not answered,
and one for each other.
"""

import threading
from collections.abc import Callable, Iterable
from struct import Struct

from amqp import spec

_FRAME_END = 0xCE
_ack = Struct(">BHIHHQ2B").pack
#: The bits of the last argument.
_MULTIPLE, _REQUEUE_NACK, _REQUEUE_REJECT = 1, 2, 1


class Acks:
    """
    The answers of one channel. All methods may be called from any thread.

    ``channel`` is the number of the channel. ``write`` is a callback: it writes whole frames to the broker, and raises
    the connection's errors. A delivery that is answered in another way must be told with `settle` after that answer was
    written: as long as one is not answered, no later one is acked together with those before it.
    """

    def __init__(self, channel: int, write: Callable[[bytes], object]) -> None:
        self._channel, self._write = channel, write
        self._lock = threading.Lock()
        #: Every delivery up to this one is answered, and RabbitMQ was told.
        self._prefix = 0
        #: The later ones that are answered, and those of them whose ack is not written yet.
        self._settled: set[int] = set()
        self._noted: set[int] = set()
        #: True once the channel is gone. Its deliveries are void: RabbitMQ delivers them again, with other numbers.
        self.ended = False

    @property
    def has_noted(self) -> bool:
        """True if an ack waits to be written."""
        return bool(self._noted)

    def ack(self, tag: int) -> None:
        """Note an ack, which the next `flush` writes. One that was answered before is not answered again."""
        with self._lock:
            if not self.ended and tag > self._prefix and tag not in self._settled:
                self._noted.add(tag)

    def settle(self, tag: int) -> None:
        """Note that a delivery was answered in another way, or needs no answer."""
        with self._lock:
            if not self.ended and tag > self._prefix:
                self._noted.discard(tag)
                self._settled.add(tag)
                if not self._noted:
                    self._advance()

    def flush(self) -> None:
        """Write all noted acks at once. Raises the connection's errors; RabbitMQ then delivers these messages again."""
        if not self._noted:
            return
        with self._lock:
            if frames := self._frames():
                self._write(b"".join(frames))

    def give_back(self, tags: Iterable[int], *, counted: bool) -> None:
        """
        Return deliveries to their queues, in one write. Raises the connection's errors.

        ``counted``: as failed deliveries (``basic.reject``). Else with ``basic.nack``, which quorum queues do not count
        since RabbitMQ 4.3; before, they count both.
        """
        method, bits = (spec.Basic.Reject, _REQUEUE_REJECT) if counted else (spec.Basic.Nack, _REQUEUE_NACK)
        with self._lock:
            back = [tag for tag in tags if tag > self._prefix and tag not in self._settled and not self.ended]
            self._noted.difference_update(back)
            # The acks come first: one of them may be for all deliveries up to a later one, and these are in between.
            if frames := [*self._frames(), *(self._frame(method, tag, bits) for tag in back)]:
                self._write(b"".join(frames))
            self._settled.update(back)

    def end(self) -> None:
        """The channel is gone. Nothing is noted or written any more."""
        with self._lock:
            self.ended = True
            self._noted.clear()
            self._settled.clear()

    def _frames(self) -> list[bytes]:
        """The frames of all noted acks."""
        last = self._advance()
        frames = [self._frame(spec.Basic.Ack, last, _MULTIPLE)] if last else []
        if self._noted:
            frames += [self._frame(spec.Basic.Ack, tag, 0) for tag in sorted(self._noted)]
            self._settled |= self._noted
            self._noted.clear()
        return frames

    def _advance(self) -> int:
        """Move the prefix over all answered deliveries. Returns the last noted ack among them, or 0."""
        settled, noted, last, tag = self._settled, self._noted, 0, self._prefix + 1
        while True:
            if tag in noted:
                noted.remove(tag)
                last = tag
            elif tag in settled:
                settled.remove(tag)
            else:
                self._prefix = tag - 1
                return last
            tag += 1

    def _frame(self, method: tuple[int, int], tag: int, bits: int) -> bytes:
        return _ack(1, self._channel, 13, *method, tag, bits, _FRAME_END)
