"""When a failed attempt is retried. Computes numbers only; the store keeps the retry."""

import random
from dataclasses import dataclass
from datetime import timedelta

from choreo.declare.breaker import Breaker
from choreo.durations import LONGEST, is_wait
from choreo.errors import DeclarationError, PermanentFailure, RetryLater

#: The highest number of a retry that can be read from a message. No handler is retried so often.
MOST_RETRIES = 1_000_000

ErrorTypes = tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """
    How often, and after which waits, a failed handler is called again: exponential backoff with full jitter.

    The first retry waits up to ``first`` seconds. The bound doubles with each retry, up to ``cap`` seconds. The wait
    is drawn evenly between 0 and the bound, so a thousand events that failed together do not come back together
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    Raises `DeclarationError` when a value is out of range.

        >>> Retry(times=3, first=1.0).attempts
        4
        >>> Retry(times=3, first=1.0).longest
        datetime.timedelta(seconds=7)
    """

    #: The number of retries after the first attempt. 0: never retry.
    times: int = 5
    #: The longest wait before the first retry, in seconds.
    first: float = 1.0
    #: The longest wait before any retry, in seconds.
    cap: float = 60.0
    #: Errors of these classes are not retried.
    never: ErrorTypes = ()
    #: If given, only errors of these classes are retried.
    only: ErrorTypes = ()
    #: When the handler pauses itself during an outage. None: never; each event becomes a dead letter after its retries.
    breaker: Breaker | None = None

    def __post_init__(self) -> None:
        if type(self.times) is not int or not 0 <= self.times <= MOST_RETRIES:
            raise DeclarationError(f"Retry(times={self.times!r}): a number from 0 (never retry) to {MOST_RETRIES:,}.")
        if not (_is_seconds(self.first) and _is_seconds(self.cap) and self.first <= self.cap):
            raise DeclarationError(
                f"Retry(first={self.first!r}, cap={self.cap!r}): both are seconds, first above 0, cap at least first, "
                f"and up to {LONGEST.days} days."
            )
        for name, errors in (("never", self.never), ("only", self.only)):
            if not (isinstance(errors, tuple) and all(_is_error(error) for error in errors)):
                raise DeclarationError(
                    f"Retry({name}={errors!r}): a tuple of exception classes, like {name}=(CardRefused,)."
                )
        self._check_breaker()

    def _check_breaker(self) -> None:
        if self.breaker is None:
            return
        if not isinstance(self.breaker, Breaker):
            raise DeclarationError(f"Retry(breaker={self.breaker!r}): write breaker=Breaker(), or leave it out.")
        if self.times == 0:
            raise DeclarationError(
                "Retry(times=0, breaker=...): a breaker calls the handler again with the events that failed during an "
                "outage, and times=0 forbids that. Write times=1 or more, or leave the breaker out."
            )

    @property
    def attempts(self) -> int:
        """The largest number of attempts: the first one, and ``times`` retries."""
        return self.times + 1

    @property
    def longest(self) -> timedelta:
        """The sum of the longest waits. The running time of the handler is not part of it."""
        growing = min(self.times, 61)
        seconds = sum(self.bound(attempt) for attempt in range(1, growing + 1))
        seconds += (self.times - growing) * self.bound(self.times)
        return timedelta(seconds=seconds) if seconds < timedelta.max.total_seconds() else timedelta.max

    def bound(self, attempt: int) -> float:
        """Return the longest wait, in seconds, after this attempt failed. Attempts count from 1."""
        # Beyond 2**60 seconds the cap applies anyway, and a larger exponent could overflow the float.
        return min(self.cap, self.first * 2.0 ** min(attempt - 1, 60))

    def wait(self, attempt: int, error: BaseException) -> float | None:
        """Return the seconds to wait after this attempt (from 1) failed with ``error``; None if it is not retried."""
        if attempt >= self.attempts or not self.covers(error):
            return None
        if isinstance(error, RetryLater):
            return error.seconds
        return random.uniform(0, self.bound(attempt))

    def covers(self, error: BaseException) -> bool:
        """Return True if this error is retried while attempts are left."""
        if isinstance(error, RetryLater):
            return True
        if isinstance(error, (PermanentFailure, *self.never)):
            return False
        return not self.only or isinstance(error, self.only)

    def is_failure(self, error: BaseException) -> bool:
        """Return True if the breaker counts this error: it is retried, and not the handler's own decision to wait."""
        return self.breaker is not None and self.covers(error) and not isinstance(error, RetryLater)

    @property
    def opens_at(self) -> int:
        """The number of failures in a row at which the breaker pauses the handler; at most those of one event."""
        return min(self.breaker.failures, self.attempts) if self.breaker else self.attempts


def _is_seconds(value: object) -> bool:
    return not isinstance(value, timedelta) and is_wait(value, above=0)


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)
