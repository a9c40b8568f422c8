"""Ports: the things that a delivery needs of the world around it.

A worker has them from its broker and its store. `choreo.testing.stage` has them in memory, with a clock that a test can
turn.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.store.claims import Begun, Claim, Committed, Settlement
from choreo.store.joins import Arrival
from choreo.store.port import Store
from choreo.store.terms import Terms


class Decisions(Protocol):
    """
    The three calls to the store in the life of one delivery. See `choreo.store.claims` for what each promises.

    A store has them. The fast lane puts an object of its own in front of the store.
    """

    def begin(self, claim: Claim) -> Begun:
        """Claim a unit."""

    def arrive(self, claim: Claim, arrival: Arrival) -> Begun:
        """Record one part of a join, and claim the join if it is complete."""

    def commit(self, claim: Claim, settlement: Settlement) -> Committed:
        """Settle a claim."""


class Sends(Protocol):
    """The publisher, as a delivery sees it."""

    def message_for(self, envelope: Envelope) -> Message:
        """The message that announces an event. Raises `EventTooLargeError`."""

    def send(self, messages: Iterable[Message]) -> None:
        """Send messages. Raises `PublishError` unless the broker confirms every one."""

    def note_unheard(self, messages: Iterable[Message]) -> None:
        """Count events that reached no queue."""


class Keeps(Protocol):
    """The lease keeper, as a delivery sees it."""

    def kept(self, claim: Claim) -> AbstractContextManager[None]:
        """Keep this claim for as long as the block runs."""


class Ports(Protocol):
    """The things that a delivery, the clock and the keepers need of the service that they work for."""

    @property
    def service_name(self) -> str:
        """The name of the service."""

    @property
    def terms(self) -> Terms:
        """How long the store waits and remembers for this service."""

    @property
    def store(self) -> Store:
        """The store."""

    @property
    def publisher(self) -> Sends:
        """The way to the broker."""

    @property
    def leases(self) -> Keeps:
        """Keeps the claims of running handlers."""

    @property
    def now(self) -> Callable[[], datetime]:
        """The time at which an event is announced. The store has a clock of its own."""

    def schedules(self) -> list[str]:
        """The owners of the schedules that this service's workers look into: its queues, and the delayed events."""

    def queue_of(self, name: str) -> str:
        """The name on the broker of the queue of this handler, or of any other of the service's queues."""
