"""Search: finds what the store keeps about a subject, an event or a story. For people; no decision depends on it."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from choreo.store.schedule import Kept

#: The most entries of one schedule, or dead letters of one handler, that a search looks at.
MOST = 200_000


@dataclass(frozen=True, slots=True)
class KeptUnit:
    """A unit that is not finished."""

    #: The number of attempts whose outcome is recorded.
    attempts: int = 0
    #: How often the current attempt was begun.
    begun: int = 0
    #: The name of the process that holds the claim: see `choreo.delivery.ending`. "": none does.
    holder: str = ""
    #: Who held the claim before, and never finished; "" if nobody did.
    before: str = ""
    #: How the process ended that began last: the text of `Claims.note_end`.
    ended: str = ""


class Search(Protocol):
    """Looks for texts. A method looks at ``most`` entries at most, and says if these were all. Raises `StoreError`."""

    def find_scheduled(self, name: str, texts: Sequence[str], most: int = MOST) -> tuple[list[Kept], bool]:
        """The messages in this schedule that contain one of the texts; True if all were looked at."""

    def find_letters(self, handler: str, texts: Sequence[str], most: int = MOST) -> tuple[list[str], bool]:
        """The dead letters of this handler, as JSON, that contain one of the texts; True if all were looked at."""

    def unit(self, handler: str, unit: str) -> KeptUnit | None:
        """A unit that has begun and is not finished; None if there is none, or it is finished."""

    def namespaces(self) -> list[str] | None:
        """The namespaces of the platforms on this server, sorted; None if there are too many keys to look at."""


def needles(texts: Iterable[str]) -> list[bytes]:
    """
    The forms in which these texts appear in messages and dead letters. Empty texts are left out.

    They are written as JSON in envelopes, and those again as JSON in messages.
    """
    found: dict[bytes, None] = {}
    for text in filter(None, texts):
        once = json.dumps(text, ensure_ascii=False)[1:-1]
        for form in (text, once, json.dumps(text)[1:-1], json.dumps(once)[1:-1]):
            found[form.encode(errors="surrogatepass")] = None
    return list(found)
