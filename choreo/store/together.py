"""Decisions about several units in one round trip. Each unit is decided in a step of its own, as it would be alone."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Protocol

from choreo.errors import StoreError
from choreo.store.claims import Claim, ClaimResult, Claims, CommitResult, Settlement
from choreo.store.joins import Arrival, Joins
from choreo.store.schedule import Schedule

#: A claim to begin; with an arrival, a part of a join to record.
Beginning = tuple[Claim, Arrival | None]
#: Handler → ids of messages in its outbox.
Sent = Mapping[str, Sequence[str]]
NOTHING_SENT: Sent = MappingProxyType({})


class Together(Claims, Joins, Schedule, Protocol):
    """
    Calls about several units, of any handlers.

    Unless they say so, they raise nothing: the answer about a unit is the result, or the `StoreError` that the call for
    this unit alone would raise. If the store is away, every answer says so. The methods of this class ask once for each
    unit; a store behind a network asks in one round trip.
    """

    def begin_all(self, beginnings: Sequence[Beginning]) -> list[ClaimResult | StoreError]:
        """Claim each unit by `begin`, or by `arrive` where there is an arrival."""
        return [_or_error(self, beginning) for beginning in beginnings]

    def commit_all(
        self, commits: Sequence[tuple[Claim, Settlement]], sent: Sent = NOTHING_SENT
    ) -> list[CommitResult | StoreError]:
        """
        Settle each claim by `commit`. They are settled in this order, as far as they are of one handler.

        Also remove messages that the broker has, as `sent_all` does; an error there changes no answer.
        """
        with suppress(StoreError):
            self.sent_all(sent)
        answers: list[CommitResult | StoreError] = []
        for claim, settlement in commits:
            try:
                answers.append(self.commit(claim, settlement))
            except StoreError as error:
                answers.append(error)
        return answers

    def commit_as_one(self, commits: Sequence[tuple[Claim, Settlement]], shared: Settlement) -> list[CommitResult]:
        """
        Settle several claims of one handler in one step. Returns the answer to each, as of `commit`.

        If the caller dies meanwhile, either all that can be settled are, or none is. A claim that was lost does not
        hold up the others. What is ``sent`` and ``scheduled`` in ``shared`` leaves if at least one claim is settled;
        its unsent messages are in the answer to the first that is. Raises `StoreError`.

        On the broker's own server there is one step for each consumer whose messages the claims are about, and
        ``shared`` leaves with the first step that settles any.
        """

    def sent_all(self, ids: Sent) -> None:
        """Remove messages that the broker has: handler → the ids of `Schedule.sent`. Raises `StoreError`."""
        for handler, some in ids.items():
            self.sent(handler, some)

    def undo_begin(self, claims: Sequence[Claim]) -> None:
        """Take the beginnings of these claims back: their units are free, and count one less. Raises `StoreError`."""

    def release(self, claims: Sequence[Claim]) -> None:
        """Give up claims that were made ahead, as far as their handlers have not begun. Raises `StoreError`."""


def _or_error(store: Together, beginning: Beginning) -> ClaimResult | StoreError:
    claim, arrival = beginning
    try:
        return store.begin(claim) if arrival is None else store.arrive(claim, arrival)
    except StoreError as error:
        return error
