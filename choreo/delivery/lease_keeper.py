"""The lease keeper: renews a claim while its handler runs, however long that takes."""

import logging
import threading
from contextlib import AbstractContextManager

from choreo import forks
from choreo.daemon import Daemon
from choreo.errors import StoreError
from choreo.printing import one_line
from choreo.store.claims import Claim, Claims

logger = logging.getLogger(__name__)


class LeaseKeeper:
    """
    Renews the claims of the handlers that run in this process, from one thread, every third of ``lease_seconds``.

    The thread starts with the first claim and ends with the process. A process that dies or is stopped (SIGSTOP) renews
    nothing, so another worker can claim its units. If it goes on later, its commits are refused as stale. A renewal
    that fails is logged, and repeated with the next one.
    """

    def __init__(self, claims: Claims, lease_seconds: float) -> None:
        self._store = claims
        self._daemon = Daemon("choreo-leases", self._renew_all, lease_seconds / 3)
        self.after_fork()
        forks.guard(self)

    def after_fork(self) -> None:
        """Forget the parent's claims: their handlers run in the parent."""
        self._claims: dict[str, Claim] = {}
        self._lock = threading.Lock()

    def kept(self, claim: Claim) -> AbstractContextManager[None]:
        """Context manager: keep this claim while the block runs."""
        return _Kept(self, claim)

    def keep(self, claim: Claim) -> None:
        """Keep this claim until it is dropped."""
        forks.notice()
        if not self._daemon.is_running:
            self._daemon.start()
        with self._lock:
            self._claims[claim.token] = claim

    def drop(self, claim: Claim) -> None:
        """Stop keeping this claim."""
        with self._lock:
            self._claims.pop(claim.token, None)

    def _renew_all(self) -> None:
        with self._lock:
            claims = list(self._claims.values())
        for claim in claims:
            self._renew(claim)

    def _renew(self, claim: Claim) -> None:
        try:
            if not self._store.renew(claim) and claim.token in self._claims:
                logger.warning("%s %s: another worker has taken over", claim.handler, one_line(claim.unit))
        except StoreError as error:
            logger.warning("%s %s: the lease could not be renewed: %s", claim.handler, one_line(claim.unit), error)


class _Kept:
    """The context manager of `LeaseKeeper.kept`. A generator would take longer, once per event."""

    __slots__ = ("_claim", "_keeper")

    def __init__(self, keeper: LeaseKeeper, claim: Claim) -> None:
        self._keeper, self._claim = keeper, claim

    def __enter__(self) -> None:
        self._keeper.keep(self._claim)

    def __exit__(self, *_: object) -> None:
        self._keeper.drop(self._claim)
