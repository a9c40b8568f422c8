"""
A connection to RabbitMQ whose reader takes many frames at once.

The event loop sees the socket, and not the frames that have been read from it already. So this connection has a reader
of its own in the loop, and a bell (`Bell`) that calls it when frames or taken messages are left.
"""

import socket
from contextlib import suppress
from typing import Any

from amqp.exceptions import RecoverableConnectionError

from choreo.broker.rabbitmq.consuming import ConsumingChannel
from choreo.broker.rabbitmq.frames import DELIVER, LEFT, UNFINISHED, delivery_at
from choreo.broker.rabbitmq.linger import ROOM, WINDOW, Linger
from choreo.broker.rabbitmq.reading import ReadingConnection
from choreo.broker.rabbitmq.transport import frame_head

#: What `RabbitConnection._next` has done: nothing, since no whole frame is there; a part of a message was read; a
#: delivery was taken; a method was handled.
_NOTHING, _PART, _TAKEN, _HANDLED = range(4)
_METHOD = 1


class RabbitConnection(ReadingConnection):
    """A connection whose channels can take their deliveries: see `ConsumingChannel`."""

    Channel = ConsumingChannel

    def __init__(self, *args: Any, **options: Any) -> None:
        #: Number of a channel → the channel, for those that take messages.
        self.takers: dict[int, ConsumingChannel] = {}
        self._bell: Bell | None = None
        self._loop: Any = None
        self._linger = Linger()
        super().__init__(*args, **options)

    @property
    def has_event_loop(self) -> bool:
        """True if an event loop reads this connection."""
        return self._bell is not None

    def attach(self, loop: Any) -> None:
        """Let kombu's event loop read this connection."""
        if self._bell is None:
            self._bell, self._loop = Bell(loop, self._work), loop
        loop.add_reader(self.sock, self.on_readable)

    def on_readable(self) -> None:
        """Called by the event loop: read what there is, and handle it. Raises the connection's errors."""
        self._read()
        done = self._take()
        if done == _NOTHING and self._linger.pays(self._arrived) and self._has_room:
            self._wait_for_more()
        else:
            self._deliver(done)

    def _read(self) -> None:
        if not self.connected:
            raise RecoverableConnectionError("Socket was disconnected")
        transport = self.transport
        # A thread that writes meanwhile would do so without a timeout, and stop in the middle of a frame.
        with suppress(TimeoutError), transport.write_lock, transport.having_timeout(0):
            transport.fill()
            # A TLS socket may hold more than it gives at once, and the loop does not see that either.
            while pending := getattr(transport.sock, "pending", None):
                if not pending():
                    break
                transport.fill()

    def drain_events(self, timeout: float | None = None) -> None:
        """Read until a method was handled or a delivery taken, as py-amqp does."""
        try:
            super().drain_events(timeout)
        finally:
            if self._transport is not None and (self._transport.holds_frame or self._arrived):
                self._ring()

    def blocking_read(self, timeout: float | None = None) -> bool:
        """Handle the next frame, and wait for it. True if that was the end of a method."""
        while (done := self._next()) == _NOTHING:
            with self.transport.having_timeout(timeout):
                self.transport.fill()
        return done != _PART

    def collect(self) -> None:
        """Close the socket without a request to the broker."""
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        super().collect()

    def _work(self) -> None:
        self._deliver(self._take())

    def _take(self) -> int:
        """Take all deliveries that have been read, or handle one method. Returns what `_next` has done last."""
        before = self._arrived
        while (done := self._next()) in (_PART, _TAKEN):
            pass
        self._linger.arrived(self._arrived - before)
        return done

    def _deliver(self, done: int) -> None:
        """Deliver a slice of what was taken, and ring if anything is left."""
        for channel in tuple(self.takers.values()):
            channel.deliver_slice()
        if done == _HANDLED or self._arrived:
            self._ring()

    def _wait_for_more(self) -> None:
        """Read nothing for a moment: see `choreo.broker.rabbitmq.linger`."""
        loop, sock, count = self._loop, self.sock, self._arrived

        def go_on() -> None:
            if self._bell is None or self._transport is None or self.sock is not sock:
                return  # the connection has ended meanwhile
            loop.add_reader(sock, self.on_readable)
            self._read()
            done = self._take()
            self._linger.waited(in_vain=self._arrived <= count)
            self._deliver(done)

        loop.remove_reader(sock)
        loop.call_later(WINDOW, go_on)

    @property
    def _has_room(self) -> bool:
        return all(channel.has_room(ROOM) for channel in self.takers.values())

    @property
    def _arrived(self) -> int:
        return sum(len(channel.arrived) for channel in self.takers.values())

    def _ring(self) -> None:
        if self._bell is not None:
            self._bell.ring()

    def _next(self) -> int:
        """Handle the next frame in the buffer, or take the next delivery."""
        transport = self.transport
        if not transport.holds_frame:
            return _NOTHING
        buffer, at = transport.buffer, transport.at
        if self.takers and buffer[at] == _METHOD and buffer[at + 7 : at + 11] == DELIVER:
            channel = self.takers.get(frame_head(buffer, at)[1])
            if channel is not None:
                taken, end = delivery_at(buffer, at, channel.taking)
                if taken is not None:
                    transport.at = end
                    self.bytes_recv += 1
                    channel.arrived.append(taken)
                    return _TAKEN
                if end == UNFINISHED:
                    return _NOTHING
                assert end == LEFT
        return _HANDLED if self.on_inbound_frame(transport.read_frame()) else _PART


class Bell:
    """Calls back in the next turn of an event loop, which then does not wait for its sockets."""

    def __init__(self, loop: Any, callback: Any) -> None:
        self._loop, self._callback = loop, callback
        self._here, self._there = socket.socketpair()
        self._here.setblocking(False)
        self._there.setblocking(False)
        self._rung = False
        loop.add_reader(self._here, self._heard)

    def ring(self) -> None:
        """Call back once in the next turn, however often this is called."""
        if not self._rung:
            self._rung = True
            self._there.send(b"!")

    def close(self) -> None:
        """Call back no more."""
        with suppress(OSError, ValueError, KeyError):
            self._loop.remove_reader(self._here)
        self._here.close()
        self._there.close()

    def _heard(self) -> None:
        self._here.recv(1)
        self._rung = False
        self._callback()


def attach(connection: RabbitConnection, loop: Any) -> None:
    """As kombu's ``register_with_event_loop``."""
    connection.transport.raise_on_initial_eintr = True
    connection.attach(loop)
