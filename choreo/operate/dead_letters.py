"""Operations on dead letters: find, group, replay, edit, discard."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import chain, islice
from typing import Any

from choreo.declare.context import utc_now
from choreo.delivery.dead_letter import DeadLetter
from choreo.errors import DeadLetterError
from choreo.events.envelope import Envelope
from choreo.operate.cabinet import Cabinet, Filed
from choreo.operate.group_replay import GroupReplay, Plan, Progress
from choreo.operate.repairs import Repairs
from choreo.operate.replays import Replays, too_late
from choreo.operate.which import Group, Which, is_id, is_id_of, the_group
from choreo.store.letters import BEGINNING, Place
from choreo.store.port import Store

#: The most letters of a page, by default, and how many are discarded in one step.
PAGE, DISCARDED = 50, 500


class DeadLetters:
    """
    The dead letters of every handler that uses one store. Its methods raise `StoreError` when the store is away.

    Several methods choose letters by the same arguments: ``names`` of services (``payment``) and handlers; ``cause``,
    the name of an error's type (``"ConnectionError"``) or the id of a group; ``since``, a moment, or how long ago that
    was; ``subject``, that of one of the letter's events. Without them, all letters are meant.

    ``queue_of`` is a callback: it returns the name of a handler's queue, to which a replay is sent. ``may_edit``
    returns True if events may be edited, ``now`` the time of an edited one.
    """

    def __init__(
        self,
        store: Store,
        queue_of: Callable[[str], str],
        may_edit: Callable[[], bool] = bool,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._store = store
        self._queue_of, self._may_edit, self._now = queue_of, may_edit, now
        self._cabinet, self._repairs = Cabinet(store), Repairs(store)

    @property
    def handlers(self) -> list[str]:
        """Every handler whose service has ever started a worker, and each service, for its other queues. Sorted."""
        return self._store.handlers()

    # -- looking ---------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[DeadLetter]:
        """Iterate over all dead letters, oldest first."""
        return iter(self.find())

    def groups(
        self, *names: str, cause: str = "", since: datetime | timedelta | None = None, subject: str = ""
    ) -> list[Group]:
        """Return the groups of dead letters that have the same handler, reason and kind of cause, the largest first."""
        return self._cabinet.groups(self._which(names, cause, since, subject))

    def find(
        self, *names: str, cause: str = "", since: datetime | timedelta | None = None, subject: str = ""
    ) -> list[DeadLetter]:
        """Return dead letters, oldest first. `each` reads as many as are needed, and `page` a part of them."""
        return list(self.each(*names, cause=cause, since=since, subject=subject))

    def each(
        self, *names: str, cause: str = "", since: datetime | timedelta | None = None, subject: str = ""
    ) -> Iterator[DeadLetter]:
        """Iterate over dead letters, oldest first, without keeping them in memory."""
        which = self._which(names, cause, since, subject)
        return self._cabinet.letters(self._cabinet.walk(which))

    def page(
        self,
        *names: str,
        cause: str = "",
        since: datetime | timedelta | None = None,
        subject: str = "",
        limit: int = PAGE,
        after: str = "",
    ) -> tuple[list[DeadLetter], str]:
        """
        Return up to ``limit`` dead letters, oldest first, and the ``after`` of the next page; "" on the last one.

        Raises `DeadLetterError` if ``after`` is no such text.
        """
        which = self._which(names, cause, since, subject)
        filed = list(islice(self._cabinet.walk(which, _place(after), page=limit + 1), limit + 1))
        shown = filed[:limit]
        following = f"{shown[-1].at}-{shown[-1].id}" if shown and len(filed) > limit else ""
        return list(self._cabinet.letters(shown)), following

    def count(self, *names: str, cause: str = "", since: datetime | timedelta | None = None, subject: str = "") -> int:
        """Return how many dead letters there are."""
        return self._cabinet.count(self._which(names, cause, since, subject))

    def get(self, letter_id: str) -> DeadLetter:
        """Return the dead letter with this id. Raises `DeadLetterError` when there is none."""
        letter = self._cabinet.get(letter_id)
        if letter is None:
            raise DeadLetterError(f"There is no dead letter {letter_id!r}. {self._instead_of(letter_id)}")
        return letter

    def _instead_of(self, letter_id: str) -> str:
        """What to do for an id that no letter has: it may be that of a group."""
        if is_id(letter_id) and any(is_id_of(letter_id, group.digest) for group in self.groups()):
            return f"It is a group: `choreo dead-letters list --cause {letter_id}` shows its letters."
        return "`choreo dead-letters list` shows all of them."

    def group(self, group_id: str) -> Group:
        """Return the group with this id. Raises `DeadLetterError` when there is none, or when several have it."""
        return the_group(group_id, self.groups())

    # -- one letter ------------------------------------------------------------------------------------------------

    def replay(self, letter_id: str, to: str | None = None, *, reason: str = "", who: str = "") -> DeadLetter:
        """
        Schedule the event for the handler that failed, and for no other handler. Removes the dead letter.

        The handler runs when a worker of the service takes the event. It has all its attempts again, and the same
        idempotency key and event ids, so other systems recognise earlier effects. The task id is a new one, so that a
        revoked event runs as well. If it fails again, a new dead letter is made. ``to`` names another handler,
        ``service.handler``, which gets the event as if it had just been announced: for a handler that was renamed. It
        gets every part of a join. ``reason`` says why and ``who`` who does it, for the log of repairs.

        Raises `DeadLetterError`, and keeps the dead letter, when no worker declares the handler any more, the handler
        does not listen to the event, or another join is pending for the same key. Also raises it when there is no dead
        letter with this id, or it was just replayed or discarded by another process.
        """
        letter = self.get(letter_id)
        outcomes = Replays(self._store, self._queue_of, letter.handler, to).send([letter])
        for _, error in outcomes.refused:
            raise error
        self._repairs.note("replayed", _target(letter), reason=reason, who=who)
        return letter

    def discard(self, letter_id: str, *, reason: str = "", who: str = "") -> DeadLetter:
        """
        Delete a dead letter, and return it. ``reason`` says why and ``who`` who does it, for the log of repairs.

        Raises `DeadLetterError` when there is none with this id, or another process has just replayed or discarded it.
        """
        letter = self.get(letter_id)
        if not self._store.discard(letter.handler, letter_id):
            raise too_late(letter)
        self._repairs.note("discarded", _target(letter), reason=reason, who=who)
        return letter

    def edit(
        self, letter_id: str, data: Mapping[str, Any], *, event: str = "", reason: str = "", who: str = ""
    ) -> Envelope:
        """
        Send the event of a letter with this data to the handler that failed, and remove the letter, in one step.

        It is a new event: it has an id of its own, and the old one as its cause; its attributes ``choreoeditor`` and
        ``choreoeditreason`` tell who has edited it and why. The old event stays settled. Returns the new one. ``event``
        names one of a join's events, by its type or id. If the class of the event is known to this program, the data
        must fit it.

        Raises `DeadLetterError`, and keeps the letter, if the setting ``choreo_allow_edit`` is not True, the data does
        not fit, there is no such letter or event, or `replay` would raise it.
        """
        # Imported here: the other commands need no pydantic.
        from choreo.events.event import known_events
        from choreo.operate.edits import Edits

        self.check_edit()
        letter = self.get(letter_id)
        new = Edits(self._store, self._queue_of, self._now, known_events).edit(letter, data, event, reason, who)
        self._repairs.note("edited", _target(letter), reason=reason, who=who)
        return new

    def check_edit(self) -> None:
        """Raise `DeadLetterError` if events may not be edited."""
        if not self._may_edit():
            raise DeadLetterError(
                "Dead letters are not edited here: an event is a fact. To allow it, set choreo_allow_edit = True in "
                "the configuration that this program reads."
            )

    # -- many letters ----------------------------------------------------------------------------------------------

    def plan(
        self,
        *targets: str,
        names: Sequence[str] = (),
        cause: str = "",
        since: datetime | timedelta | None = None,
        subject: str = "",
    ) -> Plan:
        """
        Return which letters `replay_group` and `discard_group` would take: those that there are now.

        ``targets`` are ids of groups and of letters. The other arguments choose among the letters of these groups; or
        among all letters, if there are no ``targets``.
        """
        which, until = self._which(tuple(names), cause, since, subject), self._store.now()
        if not targets:
            walk = self._cabinet.walk(which, until=until)
            return Plan(self._cabinet.count(which), walk, _described(which), is_all=which == Which())
        chosen = list(dict.fromkeys(targets))
        handlers = self._cabinet.find(chosen)
        groups, errors = self._chosen_groups([one for one in chosen if one not in handlers], which)
        letters = [Filed(Place(0.0, one), handlers[one]) for one in chosen if one in handlers]
        walks = (self._cabinet.walk(which.within(group), until=until) for group in groups)
        target = ", ".join([f"{group.id} {group.handler}" for group in groups] + _ids(letters))
        total = len(letters) + sum(group.count for group in groups)
        return Plan(total, chain(letters, chain.from_iterable(walks)), target, tuple(errors), groups)

    def replay_group(
        self,
        *targets: str,
        names: Sequence[str] = (),
        cause: str = "",
        since: datetime | timedelta | None = None,
        subject: str = "",
        to: str | None = None,
        rate: float | None = None,
        canary: bool = False,
        reason: str = "",
        who: str = "",
    ) -> Generator[Progress, None, None]:
        """
        Replay many dead letters as `replay` does, and tell of the progress. Only letters that there are now.

        ``targets`` are ids of groups and letters; see `plan`. What is named and is not there is among the
        `Progress.errors`. The letters are replayed in batches, which grow; with ``rate``, at so many per second. With
        ``canary`` one is replayed first, and a progress tells of its outcome (`Progress.canary`).

        It stops by itself if more than half of those whose outcome is known, and at least ten, have failed again. To
        stop earlier, close the iterator: what is left stays as it was. Two that replay the same letters at the same
        time share them.

        Raises `DeadLetterError` if nothing is chosen.
        """
        if not (targets or names or cause or since or subject):
            raise DeadLetterError(
                "Name a group or a letter, or choose letters by their handler, cause, time or subject."
            )
        plan = self.plan(*targets, names=names, cause=cause, since=since, subject=subject)

        def on_end(count: int) -> None:
            if count:
                self._repairs.note("replayed", plan.target, count, reason, who)

        return GroupReplay(self._store, self._queue_of, plan, to=to, rate=rate, canary=canary, on_end=on_end).progress()

    def discard_group(
        self,
        *targets: str,
        names: Sequence[str] = (),
        cause: str = "",
        since: datetime | timedelta | None = None,
        subject: str = "",
        reason: str = "",
        who: str = "",
    ) -> Generator[Progress, None, None]:
        """Delete many dead letters, and tell of the progress. The arguments are those of `replay_group`."""
        if not (targets or names or cause or since or subject):
            raise DeadLetterError(
                "Name a group or a letter, or choose letters by their handler, cause, time or subject."
            )
        plan = self.plan(*targets, names=names, cause=cause, since=since, subject=subject)
        return self._discarded(plan, reason, who)

    def check(self, letter: DeadLetter, to: str | None = None) -> None:
        """Raise the `DeadLetterError` that `replay` would raise now."""
        Replays(self._store, self._queue_of, letter.handler, to).check(letter)

    def read(self, plan: Plan, limit: int) -> list[DeadLetter]:
        """Return the first ``limit`` letters of a plan, which is used up with that."""
        return list(self._cabinet.letters(islice(plan.filed, limit)))

    def _discarded(self, plan: Plan, reason: str, who: str) -> Generator[Progress, None, None]:
        done = refused = 0
        left = islice(plan.filed, plan.total)
        errors = plan.errors
        try:
            while page := list(islice(left, DISCARDED)):
                gone = self._gone(page)
                done, refused = done + gone, refused + len(page) - gone
                yield Progress(plan.total, done, refused, errors=errors)
                errors = ()
            yield Progress(plan.total, done, refused, errors=errors, ended=True)
        finally:
            if done:
                self._repairs.note("discarded", plan.target, done, reason, who)

    def _gone(self, page: Iterable[Filed]) -> int:
        """Delete these letters. Returns how many there were."""
        by_handler: dict[str, list[str]] = {}
        for one in page:
            by_handler.setdefault(one.handler, []).append(one.id)
        return sum(sum(self._store.discard_all(handler, ids)) for handler, ids in by_handler.items())

    def _chosen_groups(self, ids: Sequence[str], which: Which) -> tuple[list[Group], list[str]]:
        """The groups with these ids, with the letters of them that are meant; and what was wrong with the others."""
        found: list[Group] = []
        errors: list[str] = []
        groups = self.groups() if ids else []
        counted = {group.digest: group for group in (self._cabinet.groups(which) if ids else [])}
        for one in ids:
            try:
                group = the_group(one, groups)
            except DeadLetterError as error:
                errors.append(str(error))
            else:
                found += [counted[group.digest]] if group.digest in counted else []
        return found, errors

    def _which(self, names: tuple[str, ...], cause: str, since: datetime | timedelta | None, subject: str) -> Which:
        return Which.of(names, cause, since, subject, self._store.now() if isinstance(since, timedelta) else 0.0)


def _target(letter: DeadLetter) -> str:
    return f"{letter.id} {letter.handler}"


def _ids(letters: Sequence[Filed]) -> list[str]:
    return [f"{one.id} {one.handler}" for one in letters[:1]] if len(letters) < 2 else [f"{len(letters)} letters"]


def _described(which: Which) -> str:
    about = {"since": which.since and datetime.fromtimestamp(which.since).isoformat(), "subject": which.subject}
    parts = [", ".join(which.names) or "all handlers", which.cause]
    return " ".join(filter(None, [*parts, *(f"{name} {value}" for name, value in about.items() if value)]))


def _place(after: str) -> Place:
    if not after:
        return BEGINNING
    moment, _, letter_id = after.partition("-")
    try:
        return Place(float(moment), letter_id)
    except ValueError:
        raise DeadLetterError(
            f"{after!r} is no place in a list of dead letters. The list before ends with the next place."
        ) from None
