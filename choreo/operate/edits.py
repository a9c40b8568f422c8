"""Edits: the event of a dead letter with other data, as a new event for the handler that failed."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from choreo.delivery.dead_letter import DeadLetter
from choreo.errors import DeadLetterError, UpcastError, VersionError
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.events.ids import new_id
from choreo.events.message import strict
from choreo.events.redaction import restored
from choreo.operate.repairs import this_person
from choreo.operate.replays import Replays
from choreo.store.port import Store

#: The extension attributes of an edited event: who has edited it, and why. Events that it causes do not inherit them.
EDITOR, REASON = "choreoeditor", "choreoeditreason"
#: The most characters of each.
LONGEST = 200


class Edits:
    """
    Edits dead letters.

    ``queue_of`` is a callback: it returns the name of a handler's queue. ``now`` returns the time of a new event,
    ``types`` the classes of the events that this program knows, by type.
    """

    def __init__(
        self,
        store: Store,
        queue_of: Callable[[str], str],
        now: Callable[[], datetime],
        types: Callable[[], Mapping[str, type[Event]]],
    ) -> None:
        self._store, self._queue_of, self._now, self._types = store, queue_of, now, types

    def edit(self, letter: DeadLetter, data: Mapping[str, Any], event: str, reason: str, who: str) -> Envelope:
        """
        Send the event with this data to the handler that failed, and remove the letter, in one step.

        ``event`` names one of a join's events by its type or id. Raises `DeadLetterError`, and keeps the letter, if
        that is not possible, or the data does not fit the class of the event. A redacted field that reads ``***``
        keeps its value, and is refused if it has none.
        """
        old = chosen(letter, event)
        try:
            data = restored(data, old)
        except ValueError as fault:
            raise DeadLetterError(f"{old.type}: {fault}.") from fault
        self._check(old, data)
        about = {EDITOR: (who or this_person())[:LONGEST]} | ({REASON: reason[:LONGEST]} if reason else {})
        new = replace(
            old,
            id=new_id(),
            time=self._now(),
            causation_id=old.id,
            data=dict(data),
            hops=0,
            extensions=old.extensions | about,
        )
        Replays(self._store, self._queue_of, letter.handler).send_edited(letter, old, new)
        return new

    def _check(self, old: Envelope, data: Mapping[str, Any]) -> None:
        """Raise `DeadLetterError` if a class is known that reads this version of the event, and not this data."""
        if data == old.data:
            raise DeadLetterError(
                f"{old.type}: the data is as it was. `choreo dead-letters replay` sends it once more."
            )
        try:
            strict(data)
        except (TypeError, ValueError) as error:
            raise DeadLetterError(f"The data of an event is JSON, which this is not: {error}.") from error
        known = self._types().get(old.type)
        if known is None:
            return
        try:
            known.read(replace(old, data=dict(data)))
        except VersionError:
            return
        except UpcastError as error:
            raise DeadLetterError(f"This is not a valid {old.type} of version {old.version}: {error}") from error
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'data'}: {one['msg']}" for one in error.errors())
            raise DeadLetterError(f"This is not a valid {old.type}: {faults}") from error


def chosen(letter: DeadLetter, event: str = "") -> Envelope:
    """The only event of a letter, or the one with this type or id. Raises `DeadLetterError` if there is none."""
    found = [one for one in letter.envelopes if not event or event in (one.type, one.id)]
    if len(found) == 1:
        return found[0]
    if not letter.envelopes:
        raise DeadLetterError(f"Dead letter {letter.id!r} holds no event that can be read, so none can be edited.")
    names = ", ".join(f"{one.type} ({one.id})" for one in letter.envelopes)
    raise DeadLetterError(f"Dead letter {letter.id!r} holds {names}. Name one of them: --event TYPE or ID.")


def with_changes(data: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """
    The data of an event with other values of some fields. ``address.city`` is the field of a field.

    Raises `DeadLetterError` for a field that the data does not have.
    """
    changed = dict(data)
    for name, value in changes.items():
        first, _, rest = (name, "", "") if name in changed else name.partition(".")
        inner = changed.get(first)
        if first not in changed or (rest and not isinstance(inner, dict)):
            raise DeadLetterError(f"The event has no field {name!r}. It has {', '.join(changed) or 'none'}.")
        changed[first] = with_changes(inner, {rest: value}) if rest and isinstance(inner, dict) else value
    return changed
