"""The page Flow: what waits for each handler, how fast it works, and who works for it."""

from choreo.errors import StoreError
from choreo.observe import phrases
from choreo.observe.cause import command
from choreo.observe.handlers import HandlerState
from choreo.observe.overview import Overview
from choreo.observe.resuming import is_open_breaker
from choreo.web import sparkline
from choreo.web.page import Page

#: The most handlers on the page.
MOST = 200
#: How long a pause lasts: seconds, and their name. 0: until it is resumed.
TIMES = {0: "until resumed", 600: "10 minutes", 1800: "30 minutes", 3600: "1 hour", 14_400: "4 hours", 86_400: "1 day"}
MOST_SECONDS = 30 * 86_400


class FlowPage(Page):
    """`choreo top` as a page."""

    title = "Flow"
    paths = (r"/flow",)

    async def get(self) -> None:
        """Show the state as the watch has seen it last."""
        overview, wanted = await self.newest(), self.text("q")
        found = [state for state in in_order(overview) if wanted in state.name]
        self.show(
            "flow.html",
            overview=overview,
            watch=self.site.watch,
            states=found[:MOST],
            more=len(found[MOST:]),
            wanted=wanted,
            phrases=phrases,
            sparkline=sparkline,
            total=total(overview),
        )

    async def newest(self) -> Overview:
        """The state as the watch has seen it last. Raises `StoreError` if it has seen none."""
        watch = self.site.watch
        if watch.newest is None:
            await self.ask(watch.look)
        if watch.newest is None:
            raise StoreError(watch.error)
        return watch.newest


class HandlerPage(FlowPage):
    """One handler: its state, its last hour, and its pause."""

    paths = (r"/flow/([^/]+)",)

    async def get(self, name: str = "") -> None:
        """Show the handler."""
        overview = await self.newest()
        state = next((one for one in overview.handlers if one.name == name), None)
        if state is None:
            self.missing(f"No handler is named {name}. A service makes itself known when its worker starts.")
        watch = self.site.watch
        self.show(
            "handler.html",
            overview=overview,
            watch=watch,
            state=state,
            sparkline=sparkline,
            command=command,
            times=TIMES,
            is_open_breaker=is_open_breaker,
        )

    async def post(self, name: str) -> None:
        """Pause or resume the handler: ``do``."""
        reason, pauses = self.reason(), self.site.app.pauses
        if self.text("do") == "resume":
            await self.ask(lambda: pauses.resume(name, reason=reason, who=self.actor))
            told = f"{name} is resumed."
        else:
            seconds, rate = self.number("for", 0, MOST_SECONDS), self.text("rate")
            await self.ask(
                lambda: pauses.pause(name, seconds or None, reason=reason, rate=rate or None, who=self.actor)
            )
            told = f"{name} is {f'slowed to {rate}' if rate else 'paused'}."
        await self.ask(self.site.watch.look)
        self.changed(told, self.site.link("flow", name), reason=reason)


def in_order(overview: Overview) -> list[HandlerState]:
    """The handlers, those with trouble first, then those for which most waits."""
    return sorted(overview.handlers, key=lambda state: (not state.trouble, -(state.waiting or 0), state.name))


def total(overview: Overview) -> dict[str, float]:
    """The sums of all handlers."""
    return {
        "waiting": sum(state.waiting or 0 for state in overview.handlers),
        "outgoing": sum(state.outgoing or 0 for state in overview.handlers),
        "dead": sum(state.dead_letters for state in overview.handlers),
        "later": sum(state.backlog.total for state in overview.handlers),
        "workers": sum(version.workers for version in overview.versions),
    }
