"""When to try again: pure arithmetic."""

import math
import random
from dataclasses import dataclass
from datetime import timedelta

from choreo.errors import DeclarationError, PermanentFailure, RetryLater

ErrorTypes = tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class Retry:
    """
    Exponential backoff with full jitter.

    The first retry waits up to ``first`` seconds, each next one up to twice as long as the one before, never more
    than ``cap``. The wait itself is drawn evenly between nothing and that bound, so that a thousand events which
    failed together do not come back together
    (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).

    ``never`` lists errors that are not retried; with ``only``, every other error is not.

        >>> Retry(times=3, first=1.0).attempts
        4
        >>> Retry(times=3, first=1.0).longest
        datetime.timedelta(seconds=7)
    """

    times: int = 5
    first: float = 1.0
    cap: float = 60.0
    never: ErrorTypes = ()
    only: ErrorTypes = ()

    def __post_init__(self) -> None:
        if type(self.times) is not int or self.times < 0:
            raise DeclarationError(f"Retry(times={self.times!r}): a number from 0 (never retry) upwards.")
        if not (_is_seconds(self.first) and _is_seconds(self.cap) and 0 < self.first <= self.cap):
            raise DeclarationError(
                f"Retry(first={self.first!r}, cap={self.cap!r}): both are seconds, first above 0, cap at least first."
            )
        for name, errors in (("never", self.never), ("only", self.only)):
            if not (isinstance(errors, tuple) and all(_is_error(error) for error in errors)):
                raise DeclarationError(
                    f"Retry({name}={errors!r}): a tuple of exception classes, like {name}=(CardRefused,)."
                )

    @property
    def attempts(self) -> int:
        """How often a handler is called at most: once, and then ``times`` times again."""
        return self.times + 1

    @property
    def longest(self) -> timedelta:
        """All waits together if each came out at its longest. The handler's own running time is not in it."""
        return timedelta(seconds=sum(self.bound(attempt) for attempt in range(1, self.attempts)))

    def bound(self, attempt: int) -> float:
        """The longest wait in seconds after this attempt (from 1) has failed."""
        # Past 2**60 the float would only grow towards an overflow; the cap has long decided.
        return min(self.cap, self.first * 2.0 ** min(attempt - 1, 60))

    def wait(self, attempt: int, error: BaseException) -> float | None:
        """Seconds to wait after this attempt (from 1) failed with ``error``; None when it is not tried again."""
        if attempt >= self.attempts or not self.covers(error):
            return None
        if isinstance(error, RetryLater):
            return error.seconds
        return random.uniform(0, self.bound(attempt))

    def covers(self, error: BaseException) -> bool:
        """Whether this error is retried at all."""
        if isinstance(error, RetryLater):
            return True
        if isinstance(error, (PermanentFailure, *self.never)):
            return False
        return not self.only or isinstance(error, self.only)


def _is_seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)
