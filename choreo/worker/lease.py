"""Keeping a claim while its handler runs, however long that takes."""

import logging
import os
import threading
from contextlib import AbstractContextManager

from choreo.errors import StoreError
from choreo.store import Claim, Store

logger = logging.getLogger(__name__)


class Leases:
    """
    Renews the claims of the handlers that run in this process, from one thread, every third of the lease.

    A process that is stopped (SIGSTOP) or dies stops renewing, and its work goes to somebody else. When it comes back
    its commit is refused as stale.
    """

    def __init__(self, store: Store, lease_seconds: float) -> None:
        self._store = store
        self._interval = lease_seconds / 3
        self._claims: dict[str, Claim] = {}
        self._lock = threading.Lock()
        self._thread_pid = 0

    def kept(self, claim: Claim) -> AbstractContextManager[None]:
        """Hold this claim for as long as the block runs."""
        return _Kept(self, claim)

    def keep(self, claim: Claim) -> None:
        """Hold this claim until it is dropped."""
        with self._lock:
            self._claims[claim.token] = claim
            # A forked pool child inherits this object but not the thread.
            if self._thread_pid != os.getpid():
                self._thread_pid = os.getpid()
                threading.Thread(target=self._renew_for_ever, name="choreo-leases", daemon=True).start()

    def drop(self, claim: Claim) -> None:
        """Hold this claim no longer."""
        with self._lock:
            self._claims.pop(claim.token, None)

    def _renew_for_ever(self) -> None:
        pause = threading.Event()
        while not pause.wait(self._interval):
            with self._lock:
                claims = list(self._claims.values())
            for claim in claims:
                self._renew(claim)

    def _renew(self, claim: Claim) -> None:
        try:
            if not self._store.renew(claim) and claim.token in self._claims:
                logger.warning("%s %s: another worker has taken over", claim.handler, claim.unit)
        except StoreError as error:
            logger.warning("%s %s: the lease could not be renewed: %s", claim.handler, claim.unit, error)


class _Kept:
    """`Leases.kept`."""

    __slots__ = ("_claim", "_leases")

    def __init__(self, leases: Leases, claim: Claim) -> None:
        self._leases, self._claim = leases, claim

    def __enter__(self) -> None:
        self._leases.keep(self._claim)

    def __exit__(self, *_: object) -> None:
        self._leases.drop(self._claim)
