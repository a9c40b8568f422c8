"""The story of a stage, for people whose test has failed."""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from choreo.delivery.dead_letter import DeadLetter
from choreo.operate.joins import PendingJoin
from choreo.operate.stories import PendingStory
from choreo.testing.log import Announced, Delivered, Log
from choreo.testing.queues import PendingDelivery

#: Lines of one section that are told; of more, the last ones.
MOST_LINES = 40


class StageStory:
    """
    The announced events, the deliveries, the dead letters, and the pending joins and stories of a stage: of one
    subject, or of all.

    ``letters``, ``joins`` and ``stories`` are callbacks: they return the dead letters, the pending joins and stories.
    """

    def __init__(
        self,
        log: Log,
        letters: Callable[[], Sequence[DeadLetter]],
        joins: Callable[[], Sequence[PendingJoin]],
        stories: Callable[[], Sequence[PendingStory]],
        pending: Sequence[PendingDelivery],
        now: Callable[[], datetime],
        subject: str | None = None,
    ) -> None:
        self._log, self._letters, self._joins, self._stories = log, letters, joins, stories
        self._pending, self._now, self._subject = pending, now, subject

    def summary(self) -> str:
        """One line: the types of the announced events, the errors, and the joins that wait."""
        types = list(dict.fromkeys(one.event.type for one in self._announced()))
        lines = [f"announced: {_listed(types)}"]
        if errors := [f"{one.handler}: {type(one.error).__name__}" for one in self._deliveries() if one.error]:
            lines.append(f"failed: {_listed(dict.fromkeys(errors))}")
        if waits := [f"{join.handler} waits for {_listed(map(str, join.missing))}" for join in self._waiting()]:
            lines.append(_listed(waits))
        if self._pending:
            lines.append(f"not delivered yet: {len(self._pending)}, call run()")
        return "; ".join(lines)

    def whole(self) -> str:
        """Everything that happened, in sections."""
        about = f" about {self._subject}" if self._subject is not None else ""
        sections = {
            "announced": [
                _line(_clock(one.at), str(one.event), f"by {one.by or one.event.source}") for one in self._announced()
            ],
            "deliveries": [_line(_clock(one.at), str(one), one.outcome) for one in self._deliveries()],
            "dead letters": [f"{one.handler}({one}): {one.reason}, {one.error}" for one in self._buried()],
            "pending joins": [_waits(join) for join in self._waiting()],
            "pending stories": [_lasts(story) for story in self._stories() if self._concerns_one(story)],
            "not delivered yet, call run()": [str(one) for one in self._pending],
        }
        report = [f"What happened on the stage{about}, until {self._now():%Y-%m-%d %H:%M:%S}:"]
        for title, lines in sections.items():
            if lines or title in ("announced", "deliveries"):
                report += [f"  {title}", *(f"    {line}" for line in _last(lines) or ["nothing"])]
        return "\n".join(report)

    def _announced(self) -> list[Announced]:
        return [one for one in self._log.announced if self._concerns(one.event.subject)]

    def _deliveries(self) -> list[Delivered]:
        return [one for one in self._log.deliveries if one.event is None or self._concerns(one.event.subject)]

    def _buried(self) -> list[DeadLetter]:
        return [letter for letter in self._letters() if self._concerns(letter.subject)]

    def _waiting(self) -> list[PendingJoin]:
        subjects = {join.key: {part.envelope.subject for part in join.arrived} | {join.key} for join in self._joins()}
        return [join for join in self._joins() if any(map(self._concerns, subjects[join.key]))]

    def _concerns_one(self, story: PendingStory) -> bool:
        return any(map(self._concerns, {story.key, *(one.envelope.subject for one in story.arrived)}))

    def _concerns(self, subject: str) -> bool:
        return self._subject is None or subject == self._subject


def _waits(join: PendingJoin) -> str:
    missing = ", ".join(map(str, join.missing)) or "its next attempt"
    return f"{join.handler} {join.key} waits for {missing}, until {_clock(join.until)}"


def _lasts(story: PendingStory) -> str:
    due = "overdue since" if story.overdue else "until"
    where = f"step {story.step} of {story.steps}, waits for {story.waits_for}"
    return f"{story.handler} {story.key} {where}, {due} {_clock(story.until)}"


def _line(*columns: str) -> str:
    return "  ".join(columns)


def _clock(at: datetime) -> str:
    return f"{at:%H:%M:%S}"


def _last(lines: list[str]) -> list[str]:
    left_out = len(lines) - MOST_LINES
    return lines if left_out <= 0 else [f"... {left_out} more before", *lines[-MOST_LINES:]]


def _listed(words: Iterable[str], most: int = 6) -> str:
    words = list(words)
    return ", ".join([*words[:most], f"... {len(words) - most} more"] if len(words) > most else words) or "nothing"
