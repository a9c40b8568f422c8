"""The schedules in memory."""

from collections.abc import Sequence

from choreo.events.message import Message
from choreo.store.memory_content import MemoryPart, Waiting, locked
from choreo.store.schedule import DEADLINE_PREFIX, Backlog, Hurried, Kept, Scheduled, Unreadable, entry_mark
from choreo.store.search import MOST, needles


class MemorySchedule(MemoryPart):
    """See the protocols of `choreo.store` for the guarantees of each method."""

    @locked
    def schedule(self, name: str, scheduled: Scheduled) -> None:
        """Keep a message for later."""
        entry = Waiting(self._clock() + scheduled.delay, scheduled.message)
        self._drawers[name].calendar.add(scheduled.id, entry)

    @locked
    def unschedule(self, name: str, schedule_id: str) -> bool:
        """Remove a message that no worker has been given yet. False when it is too late, or there is none."""
        calendar = self._drawers[name].calendar
        if schedule_id not in calendar or calendar[schedule_id].handed_out:
            return False
        del calendar[schedule_id]
        return True

    def now(self) -> float:
        """Seconds since 1970, by ``clock``."""
        return self._clock()

    @locked
    def tend(self, name: str, seconds: float) -> None:
        """Report that a worker looks into this schedule, and will for ``seconds``."""
        self._tended[name] = self._clock() + seconds

    @locked
    def tended(self, name: str) -> bool:
        """True if a worker looks into this schedule."""
        return self._tended.get(name, 0.0) > self._clock()

    @locked
    def ripe(self, names: Sequence[str]) -> list[str]:
        """The names of the schedules in which a message is due."""
        now = self._clock()
        return [name for name in names if (due := self._drawers[name].calendar.next_due()) is not None and due <= now]

    @locked
    def with_entries(self, names: Sequence[str]) -> list[str]:
        """The names of the schedules among these that have entries."""
        return [name for name in names if self._drawers[name].calendar]

    @locked
    def next_due(self, names: Sequence[str]) -> float | None:
        """The time at which the next message in these schedules falls due; None if there is none. For tests."""
        return min(
            (due for name in names if (due := self._drawers[name].calendar.next_due()) is not None), default=None
        )

    @locked
    def due(self, name: str, limit: int, hold: float) -> list[tuple[str, Message | Unreadable | None]]:
        """Up to ``limit`` messages that are due. They are due again after ``hold`` seconds unless `sent` is called."""
        handed_out = self._drawers[name].calendar.hand_out(self._clock(), limit, hold)
        # As text and back: in Redis a message is kept as text.
        return [(key, entry.message and Message.from_json(entry.message.to_json())) for key, entry in handed_out]

    @locked
    def sent(self, name: str, ids: Sequence[str]) -> None:
        """Remove messages that the broker has. A deadline stays, as one that was sent."""
        calendar = self._drawers[name].calendar
        for key in ids:
            if key not in calendar:
                continue
            if key.startswith(DEADLINE_PREFIX):
                if calendar[key].handed_out:  # else it is the deadline of the next round
                    calendar[key].due, calendar[key].was_sent = self._clock(), True
            else:
                del calendar[key]

    @locked
    def backlog(self, name: str) -> Backlog:
        """How much waits in the schedule."""
        now, entries = self._clock(), self._drawers[name].calendar.values()
        due = [entry.due for entry in entries if not entry.was_sent and entry.due <= now]
        later = [entry.due for entry in entries if not entry.was_sent and entry.due > now]
        reminded = sum(entry.was_sent for entry in entries)
        joins = sum(key.startswith(DEADLINE_PREFIX) for key in self._drawers[name].calendar)
        return Backlog(len(due), now - min(due, default=now), len(later), min(later, default=None), reminded, joins)

    @locked
    def entries(self, name: str, limit: int, after: tuple[float, str] = (0.0, "")) -> list[Kept]:
        """Up to ``limit`` entries, by their due time and then by their id, which follow this due time and id."""
        calendar = self._drawers[name].calendar
        keys = sorted((entry.due, key) for key, entry in calendar.items() if not entry.was_sent)
        page = [(due, key, calendar[key]) for due, key in keys if (due, key) > after][:limit]
        # As text and back: in Redis a message is kept as text.
        return [
            Kept(key, due, entry.message and Message.from_json(entry.message.to_json()), entry.handed_out)
            for due, key, entry in page
        ]

    @locked
    def find_entry(self, name: str, mark: str) -> Kept | None:
        """The entry with this `entry_mark`; None if there is none."""
        kept = self.entries(name, len(self._drawers[name].calendar))
        return next((one for one in kept if entry_mark(name, one.id) == mark), None)

    @locked
    def hurry(self, name: str, schedule_id: str) -> Hurried:
        """Let an entry fall due now, unless a worker was given it."""
        calendar, now = self._drawers[name].calendar, self._clock()
        entry = calendar.get(schedule_id)
        if entry is None or entry.was_sent:
            return Hurried.GONE
        if entry.handed_out:
            return Hurried.LEAVING
        if entry.due <= now:
            return Hurried.DUE
        calendar.bring_forward(schedule_id, now)
        return Hurried.NOW

    @locked
    def upcoming(self, name: str, seconds: float, limit: int) -> list[tuple[str, float]]:
        """Ids of entries that fall due within so many seconds, and when: the first ``limit`` of them."""
        now = self._clock()
        entries = [(entry.due, key) for key, entry in self._drawers[name].calendar.items() if not entry.was_sent]
        return [(key, due) for due, key in sorted(entries) if now < due <= now + seconds][:limit]

    @locked
    def note_held(self, handler: str, schedule_id: str) -> None:
        """Remember that this entry of the handler's schedule waits for the end of the handler's pause."""
        self._drawers[handler].held.append(schedule_id)

    @locked
    def hasten_held(self, handler: str, most: int | None = None) -> int:
        """Let the entries that wait for the end of a pause fall due now."""
        drawer, now, count = self._drawers[handler], self._clock(), 0
        while drawer.held and (most is None or count < most):
            key = drawer.held.pop(0)
            entry = drawer.calendar.get(key)
            if entry is not None and entry.due > now and not entry.handed_out:
                drawer.calendar.bring_forward(key, now)
                count += 1
        return count

    @locked
    def find_scheduled(self, name: str, texts: Sequence[str], most: int = MOST) -> tuple[list[Kept], bool]:
        """The messages in this schedule that contain one of the texts; True if all were looked at."""
        calendar, sought = self._drawers[name].calendar, needles(texts)
        entries = [(key, entry, entry.message) for key, entry in calendar.items() if entry.message is not None]
        found = [
            Kept(key, entry.due, message, entry.handed_out)
            for key, entry, message in entries[:most]
            if any(text in message.to_json().encode() for text in sought)
        ]
        return found, len(entries) <= most
