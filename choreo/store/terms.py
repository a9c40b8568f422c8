"""The terms of a store: how long a claim holds, and how long a finished unit is remembered."""

from dataclasses import dataclass
from datetime import timedelta

from choreo.durations import LONGEST, is_wait
from choreo.errors import DeclarationError


@dataclass(frozen=True, slots=True)
class Terms:
    """
    How long a claim holds, how long a unit is remembered, and how often an attempt may begin.

    Raises `DeclarationError` for values that cannot work.

        >>> Terms(lease=timedelta(seconds=30)).max_deliveries
        5
    """

    #: The time for which a claim holds. A worker that does not renew it in time loses the claim.
    lease: timedelta = timedelta(seconds=15)
    #: A finished unit is remembered for this long. It must cover the longest time after which its event can come back.
    retention: timedelta = timedelta(days=1)
    #: An attempt that was begun more often than this, and never finished, becomes a dead letter (`Reason.POISON`).
    max_deliveries: int = 5

    def __post_init__(self) -> None:
        for name, value in (("lease", self.lease), ("retention", self.retention)):
            if not isinstance(value, timedelta) or not is_wait(value, above=0):
                raise DeclarationError(
                    f"Terms({name}={value!r}): a time up to {LONGEST.days} days, like {name}=timedelta(minutes=1)."
                )
        if self.retention <= self.lease:
            raise DeclarationError(f"Terms(retention={self.retention!r}): longer than the lease, {self.lease!r}.")
        if type(self.max_deliveries) is not int or self.max_deliveries < 1:
            raise DeclarationError(f"Terms(max_deliveries={self.max_deliveries!r}): a number from 1.")
