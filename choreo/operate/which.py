"""Which dead letters are meant: those of some handlers, with some cause, since some time, about some subject."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from choreo.delivery.cause import Cause
from choreo.durations import moment_of
from choreo.errors import DeadLetterError
from choreo.store.letters import LetterGroup

#: The least number of digits of a group's id, and the number of all of them.
SHORTEST, LONGEST = 4, 16
_DIGITS = re.compile(rf"[0-9a-f]{{{SHORTEST},{LONGEST}}}")


@dataclass(frozen=True, slots=True)
class Which:
    """A choice of dead letters. The empty one is all of them."""

    #: Names of services (``payment``) and handlers. Empty: all.
    names: tuple[str, ...] = ()
    #: The name of an error's type, or the id of a group. "": any.
    cause: str = ""
    #: Only letters that were recorded since then, in seconds since 1970 by the store's clock.
    since: float = 0.0
    #: Only letters with an event about this subject. "": any.
    subject: str = ""

    @classmethod
    def of(
        cls, names: tuple[str, ...], cause: str, since: datetime | timedelta | None, subject: str, now: float
    ) -> "Which":
        """A choice. ``since`` is a moment, or how long ago that was at ``now``, the store's time."""
        if isinstance(since, timedelta):
            return cls(names, cause, now - since.total_seconds(), subject)
        return cls(names, cause, 0.0 if since is None else since.timestamp(), subject)

    def within(self, group: "Group") -> "Which":
        """Those of the group that are meant."""
        return replace(self, names=(group.handler,), cause=group.digest)

    def has_handler(self, handler: str) -> bool:
        """True if the letters of this handler are meant."""
        return not self.names or handler in self.names or handler.rpartition(".")[0] in self.names

    def has_group(self, group: "Group") -> bool:
        """True if the letters of this group are meant."""
        return self.has_handler(group.handler) and (
            not self.cause or self.cause == group.error or is_id_of(self.cause, group.digest)
        )


@dataclass(frozen=True, slots=True)
class Group:
    """The dead letters of one handler that have the same reason, and one kind of cause."""

    #: The beginning of `digest`, as short as no other group has it. `SHORTEST` digits, mostly.
    id: str
    #: 16 hexadecimal digits.
    digest: str
    handler: str
    #: A `choreo.delivery.dead_letter.Reason`, or what another version has written there.
    reason: str
    #: The name of the error's type; "" if no exception was raised.
    error: str
    #: The cause for people: ``ConnectionError payment:94: the gateway is away``.
    cause: str
    count: int
    #: When the oldest and the newest of them were recorded, in UTC.
    first: datetime
    last: datetime

    @classmethod
    def of(cls, handler: str, found: LetterGroup) -> "Group":
        """A group as the store has it. Its id is the whole digest."""
        try:
            cause, reason = Cause.from_json(found.about)
        except ValueError:
            cause, reason = Cause("", "this version cannot read the cause"), ""
        times = moment_of(found.first), moment_of(found.last)
        about = str(cause) or reason
        return cls(found.group, found.group, handler, reason, cause.error, about, found.count, *times)


def is_id(text: str) -> bool:
    """True if this can be the id of a group."""
    return _DIGITS.fullmatch(text) is not None


def is_digest(text: str) -> bool:
    """True if this can be all digits of a group."""
    return is_id(text) and len(text) == LONGEST


def is_id_of(text: str, digest: str) -> bool:
    """True if this is an id of the group with this digest."""
    return is_id(text) and digest.startswith(text)


def short_ids(digests: Iterable[str]) -> dict[str, str]:
    """Digest → its beginning that no other one has."""
    found, in_order = {}, sorted(set(digests))
    for number, digest in enumerate(in_order):
        neighbours = in_order[max(number - 1, 0) : number] + in_order[number + 1 : number + 2]
        length = max((_common(digest, other) + 1 for other in neighbours), default=0)
        found[digest] = digest[: max(length, SHORTEST)]
    return found


def the_group(text: str, groups: list[Group]) -> Group:
    """The group with this id. Raises `DeadLetterError` if there is none, or several begin with these digits."""
    found = [group for group in groups if is_id_of(text, group.digest)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(group.id for group in found)
        raise DeadLetterError(f"{text!r} is the beginning of several groups: {ids}.")
    what = "no group of dead letters, and no letter," if is_id(text) else "no dead letter"
    shown = (
        "`choreo dead-letters` shows the groups." if is_id(text) else "`choreo dead-letters list` shows all of them."
    )
    raise DeadLetterError(f"There is {what} {text!r}. {shown}")


def _common(one: str, other: str) -> int:
    """The number of characters with which both begin."""
    return next((at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), len(one))
