"""The lease keeper: renews a claim while its handler runs, however long that takes."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from choreo import forks
from choreo.daemon import Daemon
from choreo.errors import StoreError
from choreo.printing import one_line
from choreo.store.claims import Claim
from choreo.store.port import Store
from choreo.store.slots import Slot
from choreo.store.turns import Turn

logger = logging.getLogger(__name__)


class LeaseKeeper:
    """
    Renews the claims, slots and turns of the handlers that run in this process, every third of ``lease_seconds``.

    Its thread starts with the first claim and ends with the process. A process that dies or is stopped (SIGSTOP) renews
    nothing, so another worker can claim its units. If it goes on later, its commits are refused as stale. A renewal
    that fails is logged, and repeated with the next one.
    """

    def __init__(self, store: Store, lease_seconds: float) -> None:
        self._store = store
        self._daemon = Daemon("choreo-leases", self._renew_all, lease_seconds / 3)
        self.after_fork()
        forks.guard(self)

    def after_fork(self) -> None:
        """Forget the parent's claims: their handlers run in the parent."""
        #: Token → claim. Threads change it without a lock: each change, and the copy in `_renew_all`, is one step.
        self._claims: dict[str, Claim] = {}
        self._holds: dict[Slot | Turn, None] = {}

    def kept(self, claim: Claim, holds: Sequence[Slot | Turn] = ()) -> AbstractContextManager[None]:
        """Context manager: keep this claim, and the run's slot and turn, while the block runs."""
        if not self._daemon.is_running:
            self._daemon.start()
        return _KeptWithHolds(self, claim, holds) if holds else _Kept(self._claims, claim)

    def hold(self, held: Slot | Turn) -> None:
        """Keep a slot or turn until `drop`."""
        self._holds[held] = None
        if not self._daemon.is_running:
            self._daemon.start()

    def drop(self, held: Slot | Turn) -> None:
        """Keep it no more."""
        self._holds.pop(held, None)

    def _renew_all(self) -> None:
        for claim in self._claims.copy().values():
            self._renew(claim)
        for held in self._holds.copy():
            self._renew_hold(held)

    def _renew_hold(self, held: Slot | Turn) -> None:
        renew: Any = self._store.renew_slot if isinstance(held, Slot) else self._store.renew_turn
        try:
            if not renew(held) and held in self._holds:
                what = "the slot of a run" if isinstance(held, Slot) else f"the turn of {one_line(held.unit)}"
                logger.warning("%s: %s was lost, so another may run beside it", held.handler, what)
        except StoreError as error:
            logger.warning("%s: a slot or turn could not be renewed: %s", held.handler, error)

    def _renew(self, claim: Claim) -> None:
        try:
            if not self._store.renew(claim) and claim.token in self._claims:
                logger.warning("%s %s: another worker has taken over", claim.handler, one_line(claim.unit))
        except StoreError as error:
            logger.warning("%s %s: the lease could not be renewed: %s", claim.handler, one_line(claim.unit), error)


class _Kept:
    """The context manager of `LeaseKeeper.kept`. A generator would take longer, once per event."""

    __slots__ = ("_claim", "_claims")

    def __init__(self, claims: dict[str, Claim], claim: Claim) -> None:
        self._claims, self._claim = claims, claim

    def __enter__(self) -> None:
        self._claims[self._claim.token] = self._claim

    def __exit__(self, *_: object) -> None:
        self._claims.pop(self._claim.token, None)


class _KeptWithHolds:
    """The same for a run that has a slot or a turn."""

    def __init__(self, keeper: LeaseKeeper, claim: Claim, holds: Sequence[Slot | Turn]) -> None:
        self._keeper, self._kept, self._holds = keeper, keeper.kept(claim), holds

    def __enter__(self) -> None:
        for held in self._holds:
            self._keeper.hold(held)
        self._kept.__enter__()

    def __exit__(self, *_: object) -> None:
        self._kept.__exit__(None, None, None)
        for held in self._holds:
            self._keeper.drop(held)
