"""An outlet: the publishing end of a connection to RabbitMQ, which py-amqp has opened.

Frames are gathered and written together. While the broker takes none, its answers are read, so that neither side waits
for the other with full buffers. They are looked at between two writes only: py-amqp answers some of them at once (it
confirms that a channel was closed), and no frame may begin inside another one.

Two frames are read without py-amqp, since nearly all are of this kind: ``basic.ack`` and ``basic.nack`` of the
outlet's channel. All others go to py-amqp.
"""

from collections.abc import Callable
from contextlib import suppress
from ssl import SSLSocket, SSLWantReadError, SSLWantWriteError
from struct import Struct
from time import monotonic
from typing import Any

from choreo.broker.rabbitmq.encoder import Encoder
from choreo.broker.rabbitmq.transport import FRAME_END, FRAME_OVERHEAD

#: Frames are written once they are so many bytes. More would let the broker wait while they are encoded.
CHUNK = 64 * 1024

#: Seconds to wait for the socket to take more, before the broker's answers are read.
_PATIENCE = 0.05
#: Seconds that py-amqp has to answer a frame.
_ANSWERING = 1.0
#: The most bytes of one record of TLS. A larger write may end in the middle, and must then be repeated as it was.
_RECORD = 16 * 1024

_METHOD, _BASIC, _ACK, _NACK = 1, 60, 80, 120
#: The payload of both: class, method, number of the message, bits, of which the first says "and all before it".
_ANSWER = 13

_beginning = Struct(">BHIHH").pack
_rest = Struct(">QBB").unpack_from

OnAnswer = Callable[[int, bool], object]


class Outlet:
    """
    Writes messages to an open channel in confirm mode, and reads the broker's answers.

    ``on_ack`` and ``on_nack`` get the number of a message, and whether all before it are meant, too.
    """

    def __init__(self, channel: Any, on_ack: OnAnswer, on_nack: OnAnswer) -> None:
        self._connection = channel.connection
        self._transport = channel.connection.transport
        number = channel.channel_id
        self._answers = {
            _beginning(_METHOD, number, _ANSWER, _BASIC, _ACK): on_ack,
            _beginning(_METHOD, number, _ANSWER, _BASIC, _NACK): on_nack,
        }
        self._waiting: list[bytes] = []
        #: Encodes what `add` takes.
        self.encoder = Encoder(number, channel.connection.frame_max)
        #: The bytes that wait for `flush`.
        self.size = 0

    def add(self, frames: bytes) -> None:
        """Add the frames of a message to those that wait."""
        self._waiting.append(frames)
        self.size += len(frames)

    def flush(self, seconds: float) -> None:
        """
        Write all frames that wait.

        Raises `TimeoutError` if the broker takes nothing for so many seconds, `OSError` if the connection is lost, and
        py-amqp's error if the broker has said why.
        """
        if not self._waiting:
            return
        data, self._waiting, self.size = b"".join(self._waiting), [], 0
        try:
            self._write(memoryview(data), seconds)
        except OSError:
            with suppress(OSError):
                self._hear_all()
            with suppress(OSError):
                self.take()
            raise
        self._connection.bytes_sent += 1

    def listen(self, seconds: float) -> None:
        """Wait for something from the broker, and take it. Raises `TimeoutError` after so many seconds of silence."""
        self._transport.sock.settimeout(seconds)
        self._transport.fill()
        self.take()

    def look(self) -> None:
        """Take what has arrived, without waiting."""
        with suppress(TimeoutError):
            self._hear()
        self.take()

    def take(self) -> None:
        """Handle the frames that were read. Raises py-amqp's error for a channel or connection that was closed."""
        transport, connection, answers = self._transport, self._connection, self._answers
        while True:
            buffer, at, taken = transport.buffer, transport.at, 0
            last = len(buffer) - _ANSWER - FRAME_OVERHEAD
            while at <= last and (on_answer := answers.get(buffer[at : at + 11])):
                number, bits, end = _rest(buffer, at + 11)
                if end != FRAME_END:
                    break
                transport.at = at = at + _ANSWER + FRAME_OVERHEAD
                taken += 1
                on_answer(number, bool(bits & 1))
            connection.bytes_recv += taken
            if not transport.holds_frame:
                return
            transport.sock.settimeout(_ANSWERING)
            connection.on_inbound_frame(transport.read_frame())

    def _write(self, rest: memoryview, seconds: float) -> None:
        deadline, patience = monotonic() + seconds, 0.0
        while True:
            sent = self._send(rest, patience)
            if sent == len(rest):
                return
            patience = _PATIENCE
            rest = rest[sent:]
            with suppress(TimeoutError):
                self._hear()
            if sent:
                deadline = monotonic() + seconds
            elif monotonic() >= deadline:
                raise TimeoutError("the broker takes no more")

    def _send(self, data: memoryview, patience: float) -> int:
        """Return how many bytes the socket has taken within so many seconds."""
        sock = self._transport.sock
        sock.settimeout(patience)
        try:
            return int(sock.send(data[:_RECORD] if isinstance(sock, SSLSocket) else data))
        except (TimeoutError, BlockingIOError, SSLWantReadError, SSLWantWriteError):
            return 0
        except OSError:
            self._transport.connected = False
            raise

    def _hear(self) -> None:
        """Read what has arrived into the buffer. Raises `TimeoutError` if that is nothing."""
        self._transport.sock.settimeout(0)
        self._transport.fill()

    def _hear_all(self) -> None:
        while True:
            self._hear()
