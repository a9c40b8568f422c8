"""Sightings: which events a program announces outside of handlers. No code says so; the register learns it here."""

from collections.abc import Callable, Iterable, Sequence

from choreo.reports import Reports


class Sightings:
    """
    Tells the register of each type of event when this process first announces it.

    ``report`` is a callback: it gets the types and tells the register. It is called as `choreo.reports.Reports` says.
    """

    def __init__(self, report: Callable[[Sequence[str]], object]) -> None:
        self._known: set[str] = set()
        self._reports = Reports(lambda counts: report(sorted(counts)), "what this program announces")

    def note(self, types: Iterable[str]) -> None:
        """Note that events of these types were announced. For known types it costs a look into a set each."""
        for kind in types:
            if kind not in self._known:
                self._known.add(kind)
                self._reports.note(kind)

    def flush(self, timeout: float) -> None:
        """Report at once, and wait for the end of it: ``timeout`` seconds at most."""
        self._reports.flush(timeout)
