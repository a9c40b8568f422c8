"""py-amqp's transports with a buffer: one call of the system reads all frames that have arrived.

py-amqp asks the socket for exactly the bytes of the next part of a frame: three reads a frame, nine a delivery. Here
`Buffered.fill` reads what there is, and every reader takes whole frames from the same buffer: py-amqp by `read_frame`,
and the few readers of choreo that know a frame without py-amqp by `Buffered.buffer` and `Buffered.at`.

A read that fails or times out consumes nothing, so the next one begins with the same frame.
"""

import threading
from collections.abc import Callable
from ssl import SSLError, SSLWantReadError, SSLWantWriteError
from struct import Struct
from typing import Any

from amqp.exceptions import UnexpectedFrame
from amqp.method_framing import frame_writer
from amqp.transport import SSLTransport, TCPTransport

#: The bytes of a frame beside its payload: 7 before it, and `FRAME_END` after it.
FRAME_OVERHEAD = 8
#: The last byte of each frame.
FRAME_END = 0xCE
#: The most bytes that one read takes, unless a frame is larger. For more than 128 KiB, malloc would map new pages and
#: give them back at every read.
MOST_READ = 64 * 1024

#: The first 7 bytes of a frame: its type, its channel, and the length of its payload.
frame_head = Struct(">BHI").unpack_from

_SSL_BUSY = (SSLWantReadError, SSLWantWriteError)


class Buffered:
    """
    What the transports for TCP and TLS add to py-amqp's.

    A thread that reads must be the only one. Writers of several threads take turns: each holds `write_lock` for all
    frames of a method.
    """

    sock: Any
    connected: bool
    _quick_recv: Callable[[int], bytes]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        #: What was read from the socket. The bytes before `at` are consumed.
        self.buffer = b""
        #: The place of the next frame in `buffer`.
        self.at = 0
        #: Held while the frames of one method are written. Its owner may take it again.
        self.write_lock = threading.RLock()

    @property
    def holds_frame(self) -> bool:
        """True if the buffer holds a whole frame, so that `read_frame` does not touch the socket."""
        return self._missing() <= 0

    def fill(self) -> None:
        """
        Append what one read from the socket gives, and forget what was consumed.

        Waits as long as the socket's timeout says. Raises `TimeoutError` if nothing came, and `OSError` if the
        connection is lost; both leave the buffer as it was.
        """
        try:
            read = self._quick_recv(max(MOST_READ, self._missing()))
            if not read:
                raise OSError("Server unexpectedly closed connection")
        except (TimeoutError, BlockingIOError, *_SSL_BUSY) as error:
            raise TimeoutError(*error.args) from None
        except SSLError as error:
            # OpenSSL says it so in some versions: https://bugs.python.org/issue10272
            if "timed out" in str(error):
                raise TimeoutError(*error.args) from None
            self.connected = False
            raise
        except (OSError, ValueError) as error:
            self.connected = False
            if isinstance(error, ValueError):  # a TLS socket that was closed before
                raise OSError("Server unexpectedly closed connection") from error
            raise
        self.buffer, self.at = self.buffer[self.at :] + read, 0

    def read_frame(self, *_: Any) -> tuple[int, int, bytes]:
        """
        Take the next frame from the buffer: its type, channel and payload. Reads from the socket only if none is whole.

        Raises what `fill` raises, and py-amqp's `UnexpectedFrame` for bytes that are no frame.
        """
        while self._missing() > 0:
            self.fill()
        buffer, start = self.buffer, self.at + 7
        kind, channel, size = frame_head(buffer, self.at)
        self.at = start + size + 1
        if buffer[start + size] != FRAME_END:
            raise UnexpectedFrame(f"Received frame_end {buffer[start + size]:#04x} while expecting 0xce")
        return kind, channel, buffer[start : start + size]

    def write(self, data: Any) -> None:
        """Write all of the data, as py-amqp does, while no other thread writes."""
        with self.write_lock:
            super().write(data)  # type: ignore[misc]

    def _missing(self) -> int:
        """How many bytes are missing to the next frame at least; 0 or less if it is whole."""
        there = len(self.buffer) - self.at
        if there < FRAME_OVERHEAD:
            return FRAME_OVERHEAD - there
        return int(frame_head(self.buffer, self.at)[2]) + FRAME_OVERHEAD - there


class BufferedTCP(Buffered, TCPTransport):
    """A connection in clear."""


class BufferedTLS(Buffered, SSLTransport):
    """A connection with TLS."""


def buffered(host: str, connect_timeout: float | None = None, ssl: Any = False, **options: Any) -> Buffered:
    """A transport for py-amqp's connection; with TLS if ``ssl`` is true or a dict of its options."""
    kind = BufferedTLS if ssl else BufferedTCP
    return kind(host, connect_timeout=connect_timeout, ssl=ssl, **options)


def writing_frames(connection: Any, transport: Any) -> Callable[..., None]:
    """As py-amqp's `frame_writer`, but no other thread writes between the frames of a method."""
    write = frame_writer(connection, transport)

    def write_frames(*method: Any) -> None:
        with transport.write_lock:
            write(*method)

    return write_frames
