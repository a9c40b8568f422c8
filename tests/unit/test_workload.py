"""What a worker is doing, looked at while its pool's threads change it."""

from collections.abc import Iterator

from choreo.broker.workload import listed


class Changing:
    """A set that a thread adds to while it is listed."""

    def __init__(self, changes: int) -> None:
        self.changes = changes

    def __iter__(self) -> Iterator[int]:
        yield 1
        if self.changes:
            self.changes -= 1
            raise RuntimeError("Set changed size during iteration")
        yield 2


def test_what_changes_while_it_is_listed_is_listed_again():
    assert listed(Changing(2)) == [1, 2]
