"""The deliveries of a worker that wait for the rate of their handler (``rate_limit``).

Celery holds such a delivery in a bucket, one per task, and does not count it as reserved.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from choreo.broker.incoming import source_of

#: A delivery in a bucket: Celery's request, and the tokens that it takes.
Held = tuple[Any, int]


class Rates:
    """
    The buckets of one worker. ``buckets`` is Celery's own table: the name of a task → its bucket, None without a limit.

    `changed` must be called whenever a bucket was replaced in the table.
    """

    def __init__(self, buckets: Mapping[str, Any]) -> None:
        self._buckets = buckets
        self._limited: list[Any] = []

    @property
    def are_limited(self) -> bool:
        """True if the worker limits the rate of any task."""
        return bool(self._limited)

    def changed(self) -> None:
        """Look the buckets up again."""
        self._limited = [bucket for bucket in self._buckets.values() if bucket]

    def held(self) -> Mapping[str, int]:
        """Queue → how many of its deliveries wait for a rate. A queue without any is left out."""
        if not any(bucket.contents for bucket in self._limited):
            return {}
        waiting = [request for bucket in self._limited for request, _ in list(bucket.contents)]
        return Counter(source_of(request.message) for request in waiting)

    def held_for(self) -> float:
        """The seconds until the first of them may go on."""
        return min((bucket.expected_time() for bucket in self._limited if bucket.contents), default=math.inf)

    def take_from(self, queue: str) -> Iterator[Any]:
        """Remove the waiting deliveries from one queue, and return their requests. The others keep their order."""
        for bucket in self._limited:
            waiting = list(bucket.contents)
            if any(source_of(request.message) == queue for request, _ in waiting):
                bucket.contents.clear()
                bucket.contents.extend(held for held in waiting if source_of(held[0].message) != queue)
                yield from (request for request, _ in waiting if source_of(request.message) == queue)

    def take_all(self) -> Iterator[tuple[str, Held]]:
        """Remove each waiting delivery from its bucket, oldest first, and return it with the name of its task."""
        for name, bucket in list(self._buckets.items()):
            while bucket and bucket.contents:
                yield name, bucket.pop()
