"""The cabinet: reads dead letters by their index, a page at a time, and completes the index where it has gaps."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from heapq import merge
from itertools import islice
from math import inf
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.failure import line_of
from choreo.durations import moment_of
from choreo.errors import StoreError
from choreo.events.message import Message
from choreo.operate.which import Group, Which, is_digest, short_ids
from choreo.printing import one_line
from choreo.store.letters import BEGINNING, Place
from choreo.store.port import Store

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: The content type of the message in a dead letter that this version of choreo cannot read. Its body is the letter.
UNKNOWN = "application/x-choreo-dead-letter"

#: How many letters, and places of letters, are read at once.
PAGE = 100


class Filed(NamedTuple):
    """Where a letter is."""

    place: Place
    handler: str
    #: Its group; "" if that is not known.
    group: str = ""

    @property
    def id(self) -> str:
        """The id of the letter."""
        return self.place.id

    @property
    def at(self) -> float:
        """When it was recorded, in seconds since 1970 by the store's clock."""
        return self.place.at

    @property
    def order(self) -> Any:
        """Compares as the letters of all handlers are listed."""
        return self.place.order, self.handler


class Cabinet:
    """
    The dead letters of every handler that uses one store. Its methods raise `StoreError` when the store is away.

    ``completes``: letters that an older choreo recorded without the index are added to it, once. Else the store is only
    read, and such letters are in no group.
    """

    def __init__(self, store: Store, *, completes: bool = True) -> None:
        self._store, self._completes = store, completes

    def groups(self, which: Which) -> list[Group]:
        """The groups of these letters, the largest first. Their ids are told apart from those of all other groups."""
        found = [group for handler in self._handlers() for group in self._groups_of(handler, which.since)]
        ids = short_ids(group.digest for group in found)
        chosen = [replace(group, id=ids[group.digest]) for group in found if which.has_group(group)]
        if which.subject:
            about = self._counted(replace(which, cause=""))
            chosen = [replace(group, **about[group.digest]) for group in chosen if group.digest in about]
        return sorted(chosen, key=lambda group: (-group.count, group.handler, group.digest))

    def _counted(self, which: Which) -> dict[str, dict[str, Any]]:
        """Group → the count and the times of such letters."""
        found: dict[str, dict[str, Any]] = {}
        for one in self.walk(which):
            known = found.setdefault(one.group, {"count": 0, "first": moment_of(one.at)})
            known |= {"count": known["count"] + 1, "last": moment_of(one.at)}
        return found

    def count(self, which: Which) -> int:
        """How many such letters there are."""
        if which.subject:
            return sum(1 for _ in self.walk(which))
        if which.cause:
            return sum(group.count for group in self.groups(which))
        return sum(
            _shown(handler, partial(self._store.letter_count, handler, "", which.since)) or 0
            for handler in self.handlers(which)
        )

    def walk(self, which: Which, after: Place = BEGINNING, until: float = inf, page: int = PAGE) -> Iterator[Filed]:
        """Iterate over where such letters are, oldest first. ``page`` of one handler are asked for at once."""
        walks = (self._walk(handler, group, which, after, until, page) for handler, group in self._lists(which))
        return merge(*walks, key=attrgetter("order"))

    def letters(self, filed: Iterable[Filed]) -> Iterator[DeadLetter]:
        """Read letters, in the order in which they are given. Those that are gone meanwhile are left out."""
        left = iter(filed)
        while page := list(islice(left, PAGE)):
            texts = self._texts(page)
            yield from (read(one.handler, texts[one]) for one in page if one in texts)

    def find(self, ids: Sequence[str]) -> dict[str, str]:
        """The ids among these that are dead letters → their handlers."""
        found: dict[str, str] = {}
        for handler in self._handlers():
            for at in range(0, len(ids), PAGE):
                page = ids[at : at + PAGE]
                texts = _shown(handler, partial(self._store.letter_texts, handler, page)) or []
                found |= {one: handler for one, text in zip(page, texts, strict=False) if text is not None}
        return found

    def get(self, letter_id: str) -> DeadLetter | None:
        """The dead letter with this id; None if there is none."""
        for handler in self._handlers():
            text = _shown(handler, partial(self._store.letter, handler, letter_id))
            if text is not None:
                return read(handler, text)
        return None

    def handlers(self, which: Which) -> list[str]:
        """The handlers whose letters are meant, and that have any."""
        return self._store.with_letters([handler for handler in self._store.handlers() if which.has_handler(handler)])

    def _handlers(self) -> list[str]:
        return self._store.with_letters(self._store.handlers())

    def _groups_of(self, handler: str, since: float) -> list[Group]:
        self._complete(handler)
        found = _shown(handler, partial(self._store.letter_groups, handler, since)) or []
        return [Group.of(handler, one) for one in found]

    def _lists(self, which: Which) -> list[tuple[str, str]]:
        """The handlers, each with a group; or with "" for all its letters."""
        if is_digest(which.cause):
            return [(handler, which.cause) for handler in self.handlers(which)]
        if which.cause:
            return [(group.handler, group.digest) for group in self.groups(replace(which, subject=""))]
        return [(handler, "") for handler in self.handlers(which)]

    def _walk(self, handler: str, group: str, which: Which, after: Place, until: float, page: int) -> Iterator[Filed]:
        place = max(after, Place(which.since, ""), key=lambda one: one.order)
        if which.subject:
            yield from self._about(handler, group, which.subject, place, until)
            return
        while places := _shown(handler, partial(self._store.letter_places, handler, page, place, until, group)):
            yield from (Filed(one, handler, group) for one in places)
            place = places[-1]
            if len(places) < page:
                return

    def _about(self, handler: str, group: str, subject: str, after: Place, until: float) -> Iterator[Filed]:
        """The letters about this subject. Only those are read whose card does not tell."""
        self._complete(handler)
        for place, card in _shown(handler, partial(self._store.letters_about, handler, subject)) or []:
            is_meant = place.order > after.order and place.at <= until and group in ("", card.group)
            if is_meant and (card.subjects is not None or self._is_about(handler, place.id, subject)):
                yield Filed(place, handler, card.group)

    def _is_about(self, handler: str, letter_id: str, subject: str) -> bool:
        text = self._store.letter(handler, letter_id)
        return text is not None and subject in subjects_of(read(handler, text))

    def _texts(self, page: Sequence[Filed]) -> dict[Filed, str]:
        texts: dict[Filed, str] = {}
        for handler in {one.handler for one in page}:
            filed = [one for one in page if one.handler == handler]
            found = _shown(handler, partial(self._store.letter_texts, handler, [one.id for one in filed])) or []
            texts |= {one: text for one, text in zip(filed, found, strict=False) if text is not None}
        return texts

    def _complete(self, handler: str) -> None:
        """Add the letters to the index that were recorded without it, by an older choreo."""
        if not self._completes:
            return
        ids = _shown(handler, partial(self._store.unfiled, handler)) or []
        if len(ids) > 10 * PAGE:
            logger.warning("%s: %d older dead letters are added to the index, once", one_line(handler), len(ids))
        for at in range(0, len(ids), PAGE):
            page = ids[at : at + PAGE]
            texts = zip(page, self._store.letter_texts(handler, page), strict=True)
            cards = {one: read(handler, text).card for one, text in texts if text is not None}
            _shown(handler, partial(self._store.file_letters, handler, cards))


def subjects_of(letter: DeadLetter) -> set[str]:
    """The subjects of its events."""
    return {envelope.subject for envelope in letter.envelopes}


def read(handler: str, text: str) -> DeadLetter:
    """A dead letter from the store. One that another version wrote in another form is shown, and hides no other."""
    try:
        return DeadLetter.from_json(text)
    except Exception as error:  # it may be of any form
        letter_id = ""
        with suppress(Exception):
            letter_id = str(json.loads(text)["id"])
        fault = f"this version cannot read it ({line_of(error)})"
        raw = text.encode(errors="surrogatepass")
        message = Message("", "", raw, content_type=UNKNOWN)
        service = handler.partition(".")[0]
        return DeadLetter(
            service, handler, Reason.UNREADABLE, fault, message, id=letter_id, failed_at=datetime.fromtimestamp(0, UTC)
        )


def _shown(handler: str, ask: Callable[[], T]) -> T | None:
    """What the store answers. None, and a line in the log, if it refuses to show the dead letters of this handler."""
    try:
        return ask()
    except StoreError as error:
        if error.is_outage:
            raise
        logger.warning("the dead letters of %s cannot be read: %s", one_line(handler), error)
        return None
