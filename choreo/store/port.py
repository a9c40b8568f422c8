"""The store: several protocols in one object, since a commit writes to several of them in one step."""

from collections.abc import Mapping
from typing import Any, Protocol

from choreo.store.claims import Claims
from choreo.store.deployments import Deployments
from choreo.store.failures import Failures
from choreo.store.joins import Joins
from choreo.store.letters import Letters
from choreo.store.pauses import Pauses
from choreo.store.register import Register
from choreo.store.repairs import Repairs
from choreo.store.runs import Runs
from choreo.store.schedule import Schedule
from choreo.store.search import Search
from choreo.store.slots import Slots
from choreo.store.together import Together
from choreo.store.turns import Turns


class Store(
    Together,
    Claims,
    Failures,
    Joins,
    Schedule,
    Letters,
    Register,
    Deployments,
    Pauses,
    Repairs,
    Runs,
    Search,
    Slots,
    Turns,
    Protocol,
):
    """
    All state that choreo keeps.

    Every method that changes a unit is one atomic decision. It raises `StoreError` when the store cannot be reached. It
    is then done wholly or not at all, and calling again is safe. Time is the store's own, never a worker's clock.
    """

    def ping(self) -> None:
        """Raise `StoreError` unless the store answers."""

    def servers(self) -> Mapping[str, Mapping[str, Any]]:
        """Each server that keeps the state → what it tells of itself, as Redis does in INFO. Empty in memory."""

    def watch(self) -> None:
        """Look now and then if the server drops what it should keep, and log that. Never raises."""
