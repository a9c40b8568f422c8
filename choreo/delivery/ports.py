"""Ports: the interfaces through which a delivery reaches the broker and the store.

In a worker `choreo.runtime.Runtime` implements them. `choreo.testing.stage` implements them in memory, with a clock
that a test moves.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Protocol

from choreo.declare.context import Context
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.events.signing import Signing
from choreo.store.claims import Claim, ClaimResult, CommitResult, Settlement
from choreo.store.joins import Arrival
from choreo.store.port import Store
from choreo.store.slots import Slot
from choreo.store.terms import Terms
from choreo.store.turns import Turn


class Decisions(Protocol):
    """
    The calls to the store in the life of one delivery: begin or arrive, then commit. Each raises `StoreError`.

    See `choreo.store.claims.Claims` and `choreo.store.joins.Joins` for their promises. Every store has these methods.
    The fast lane puts an object of its own in front of the store.
    """

    def begin(self, claim: Claim) -> ClaimResult:
        """Claim a unit."""

    def arrive(self, claim: Claim, arrival: Arrival) -> ClaimResult:
        """Record one part of a join, and claim the join if it is complete."""

    def commit(self, claim: Claim, settlement: Settlement) -> CommitResult:
        """Settle a claim. Unless the outcome is OK, nothing of the settlement holds."""


class PublisherPort(Protocol):
    """The publisher, as a delivery sees it."""

    def message_for(self, envelope: Envelope) -> Message:
        """The message that announces an event. Raises `EventTooLargeError` and `InvalidEventError`."""

    def send(self, messages: Iterable[Message]) -> None:
        """Send messages. Raises `PublishError` unless the broker confirms every one."""

    def sealed(self, message: Message) -> Message:
        """The message as it may go to a single queue: see `choreo.events.signing`."""

    def note_unheard(self, messages: Iterable[Message]) -> None:
        """Count events that reached no queue, and log them as ``choreo_unheard`` says."""


class Sender(Protocol):
    """The part of `Ports` that makes the messages about a dead letter, of any service."""

    @property
    def publisher(self) -> PublisherPort:
        """The publisher, which sends to the broker."""

    def queue_of(self, name: str) -> str:
        """The name on the broker of the queue of this handler, or of any other of a service's queues."""


class LeasePort(Protocol):
    """The lease keeper, as a delivery sees it."""

    def kept(self, claim: Claim, holds: Sequence[Slot | Turn] = ()) -> AbstractContextManager[None]:
        """Context manager: keep this claim, and the run's slot and turn, while the block runs."""


class Ports(Protocol):
    """
    One service, as a delivery, the clock and the notices see it.

    The attributes stay the same objects for the life of the process. Reading the first of them may raise
    `DeclarationError`, if a setting of the service is wrong.
    """

    @property
    def service_name(self) -> str:
        """The name of the service."""

    @property
    def node(self) -> str:
        """The node name of this worker; "" in a program that is no worker."""

    @property
    def terms(self) -> Terms:
        """The times for which the store waits and remembers for this service, and `Terms.max_deliveries`."""

    @property
    def max_hops(self) -> float:
        """The most events that may lead to an event, one after the other; infinity if there is no limit."""

    @property
    def store(self) -> Store:
        """The store."""

    @property
    def publisher(self) -> PublisherPort:
        """The publisher, which sends to the broker."""

    @property
    def signing(self) -> Signing | None:
        """What this service signs with, and whom it trusts; None if it signs nothing."""

    @property
    def leases(self) -> LeasePort:
        """The lease keeper of this process."""

    @property
    def contexts(self) -> Callable[..., Context]:
        """Makes the context of a handler. Takes the fields of a `Context`."""

    @property
    def now(self) -> Callable[[], datetime]:
        """Callback: returns the time at which an event is announced (UTC). The store has a clock of its own."""

    @property
    def stand_by(self) -> Callable[[str], object]:
        """
        Callback: gets a handler that was paused, and returns when this worker has learnt of it; in a second at most.

        Without that a worker could fail a thousand events meanwhile.
        """

    def schedules(self) -> list[str]:
        """The names of the schedules that this service's clock looks into: its queues, and the delayed events."""

    def soft_time_limit(self, handler: str) -> float | None:
        """The soft time limit of this handler in this worker, in seconds; None if there is none."""

    def queue_of(self, name: str) -> str:
        """The name on the broker of the queue of this handler, or of any other of the service's queues."""
