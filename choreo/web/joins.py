"""The page Joins: what waits for which events, and one join, which a person can fire or cancel."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from choreo.events.redaction import redacted
from choreo.operate.joins import Arrived, PendingJoin
from choreo.service import Service
from choreo.web.change import Change
from choreo.web.page import Page

#: Joins on a page of one handler, and of each handler on the page of all.
PAGE, FEW = 100, 10
#: What an event was that did not count for its join → why not.
IGNORED = {
    "late": "came after the join had ended",
    "duplicate": "came when this part was there already",
    "surplus": "found no part that was still missing",
}


@dataclass(frozen=True)
class Waiting:
    """A handler that joins, with a page of what waits for it."""

    handler: str
    joins: Sequence[PendingJoin]
    #: The events that did not count: what they were → how many.
    tally: dict[str, int]
    #: The cursor of the next page; "" on the last one.
    after: str = ""


class JoinsPage(Page):
    """All joins that wait; those with one key; or those of one handler."""

    title = "Joins"
    paths = (r"/joins",)

    async def get(self) -> None:
        """Show the joins of the handler ``handler``, those with the key ``q``, or some of each handler."""
        key, handler, after = self.text("q"), self.text("handler"), self.text("after")
        app = self.site.app
        if key:
            found = await self.ask(lambda: app.joins.find(key))
            self.show("joins_found.html", key=key, found=found, now=time.time())
            return
        waiting = await self.ask(_waiting(app, handler, after))
        if handler and not waiting:
            self.missing(f"No join has the name {handler}.")
        self.show("joins.html", ignored=IGNORED, waiting=waiting, handler=handler, now=time.time())


class JoinPage(Page):
    """One join that waits."""

    title = "Joins"
    paths = (r"/joins/([^/]+)/([^/]+)",)

    async def get(self, handler: str, key: str) -> None:
        """Show what has arrived, what is missing, and what a person can do."""
        app = self.site.app
        found = await self.ask(
            lambda: [(one, app.joins.has_on_timeout(handler)) for one in app.joins.find(key, handler)]
        )
        if not found:
            self.set_status(404)
            self.show("join_gone.html", handler=handler, key=key)
            return
        join, has_on_timeout = found[0]
        changes = _changes(join, self.site.link("joins", handler, key))
        shown = [one for one in changes if one.fields["do"] != "timeout" or (has_on_timeout and not join.complete)]
        self.show("join.html", join=join, now=time.time(), changes=shown, fields=_fields)

    async def post(self, handler: str, key: str) -> None:
        """Fire the join, run its on_timeout, or cancel it: ``do``."""
        reason, do, app = self.reason(), self.text("do"), self.site.app
        if do not in _TOLD:
            self.refuse("Say what to do with the join: fire, timeout or cancel.")

        def change() -> None:
            if do == "cancel":
                app.joins.cancel(key, reason, handler, who=self.actor)
            else:
                app.joins.fire(key, handler, as_timeout=do == "timeout", reason=reason, who=self.actor)

        await self.ask(change)
        self.changed(f"{handler} {key}: {_TOLD[do]}.", self.site.link("stories", q=key), reason=reason)


#: What is asked for → what was done.
_TOLD = {
    "fire": "it runs with the events that have arrived",
    "timeout": "its on_timeout runs",
    "cancel": "cancelled; events that come later are ignored",
}


def _changes(join: PendingJoin, action: str) -> Sequence[Change]:
    """What a person can do with a join."""
    on = (join.key, "--handler", join.handler)
    return (
        Change(
            "Fire it now",
            action,
            ("choreo", "joins", "fire", *on),
            "Its handler runs with the events that have arrived. A missing one is None.",
            {"do": "fire"},
        ),
        Change(
            "Run on_timeout",
            action,
            ("choreo", "joins", "fire", *on, "--as-timeout"),
            "As at its deadline.",
            {"do": "timeout"},
        ),
        Change(
            "Cancel it",
            action,
            ("choreo", "joins", "cancel", *on, "--reason", "REASON"),
            "It is settled without a run of its handler. Events that come later are ignored.",
            {"do": "cancel"},
            is_final=True,
        ),
    )


def _waiting(app: Service, handler: str, after: str) -> Callable[[], list[Waiting]]:
    def look() -> list[Waiting]:
        names = [name for name in app.joins.handlers if handler in ("", name)]
        return [_page(app, name, PAGE if handler else FEW, after if handler else "") for name in names]

    return look


def _page(app: Service, handler: str, limit: int, after: str) -> Waiting:
    page = app.joins.page(handler, limit, after)
    tally = {what: count for what, count in app.joins.tally(handler).items() if count}
    return Waiting(handler, page.joins, tally, page.after)


def _fields(part: Arrived) -> str:
    data: Any = redacted(part.envelope).data
    return json.dumps(data, indent=2, ensure_ascii=False, default=str) if data else ""
