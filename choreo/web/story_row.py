"""Rows of a story's page: a bar of its waterfall, with its places on the axis, and where it leads to."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from choreo.observe.open_end import Kind, OpenEnd
from choreo.observe.trace import Step
from choreo.observe.waterfall import Axis, Bar, State
from choreo.operate.joins import PendingJoin
from choreo.store.runs import Run
from choreo.web.change import Change
from choreo.web.rerun import can_run_again

#: The deepest indentation.
DEEPEST = 9


@dataclass(frozen=True)
class Row:
    """A bar on an axis."""

    bar: Bar
    axis: Axis
    #: What a person can change here.
    changes: Sequence[Change] = ()

    @property
    def step(self) -> Step | None:
        """What a handler did; None for an event."""
        return self.bar.step

    @property
    def run(self) -> Run | None:
        """The attempt that the bar shows; None for what is no attempt."""
        return self.bar.run

    @property
    def indent(self) -> int:
        """The level of its indentation."""
        return min(self.bar.line.depth, DEEPEST)

    @property
    def after(self) -> float | None:
        """How long after the beginning of the story it was announced, or its run began; None for what waits."""
        is_known = self.run is not None or (self.step is None and self.bar.state is State.EVENT)
        return self.bar.start if is_known and self.bar.start else None

    @property
    def waited(self) -> float | None:
        """The seconds for which it waited, or has waited until now; None for an event that is out."""
        if self.run is not None:
            return self.run.waited
        return self.bar.start - self.bar.since if self.bar.start > self.bar.since else None

    @property
    def fields(self) -> str:
        """The fields of the event as JSON; "" if it has none, or they are not known."""
        data: Mapping[str, Any] | None = self.bar.line.event.data
        return json.dumps(data, indent=2, ensure_ascii=False, default=str) if data and self.step is None else ""

    @property
    def letter(self) -> str:
        """The id of its dead letter that is still there; "" if there is none."""
        if self.step is None:
            return ""
        if self.run is not None:
            return "" if self.run.letter in self.step.gone else self.run.letter
        end = self._end
        return end.letter.id if end is not None and end.letter is not None else ""

    @property
    def again(self) -> str:
        """The id of the event that its handler may handle again; "" if not."""
        return self.run.event if self.run is not None and can_run_again(self.run) else ""

    @property
    def join(self) -> PendingJoin | None:
        """The join in which it waits."""
        end = self._end
        return end.join if end is not None and end.kind is Kind.JOIN else None

    @property
    def _end(self) -> OpenEnd | None:
        """What is still to be done, on the row that shows it."""
        return self.step.end if self.step is not None and self.run is None else None

    # -- places on the axis, in percent ------------------------------------------------------------------------------

    @property
    def since(self) -> str:
        """Where it began to wait."""
        return _percent(self.axis.place(self.bar.since))

    @property
    def start(self) -> str:
        """Where its handler began."""
        return _percent(min(self.axis.place(self.bar.start), 0.996))

    @property
    def waiting(self) -> str:
        """How wide the bar of its waiting is."""
        return _percent(max(self.axis.place(self.bar.start) - self.axis.place(self.bar.since), 0.003))

    @property
    def running(self) -> str:
        """How wide the bar of its run is: what is too short to see is drawn all the same."""
        return _percent(max(self.axis.place(self.bar.until) - self.axis.place(self.bar.start), 0.004))

    @property
    def cuts(self) -> list[tuple[str, str]]:
        """The places and widths of what the axis leaves out."""
        ends = [(self.axis.place(cut.begin), self.axis.place(cut.end)) for cut in self.axis.cuts]
        return [(_percent(begin), _percent(end - begin)) for begin, end in ends]


def _percent(share: float) -> str:
    return f"{share * 100:.2f}"
