"""The page Map: who announces and who hears each event, with what waits for each handler."""

from collections.abc import Mapping
from dataclasses import dataclass

from choreo.errors import ChoreoError
from choreo.observe.handlers import HandlerState
from choreo.observe.likeness import alike
from choreo.observe.map import Map
from choreo.observe.picture import Picture
from choreo.web.layout import MOST_NODES, Layout, layout
from choreo.web.page import Page

#: From so many waiting messages on, a handler has the next colour.
LEVELS = (1, 10, 100, 1000)
#: The most events in the table.
MOST_EVENTS = 300


@dataclass(frozen=True)
class Drawn:
    """A map, and its picture; or why there is none."""

    map: Map
    layout: Layout | None = None
    note: str = ""


class MapPage(Page):
    """`choreo map` as a page."""

    title = "Map"
    paths = (r"/map",)

    async def get(self) -> None:
        """Show the map, or the part of it around the argument ``focus``."""
        focus = self.text("focus")
        drawn = await self.ask(lambda: self._draw(focus))
        if drawn is None:
            self.missing(await self.ask(lambda: self._unknown(focus)))
        overview = self.site.watch.newest
        self.show(
            "map.html",
            focus=focus,
            drawn=drawn,
            map=drawn.map,
            handler=next((one for one in drawn.map.handlers if one.name == focus), None),
            states={state.name: state for state in overview.handlers} if overview else {},
            is_known=overview is not None,
            level=level,
            events=drawn.map.events[:MOST_EVENTS],
            more=len(drawn.map.events[MOST_EVENTS:]),
        )

    def _draw(self, focus: str) -> Drawn | None:
        whole = self.site.app.observe.map()
        if focus and focus not in whole.names:
            return None
        shown = whole.about(focus) if focus else whole
        picture = Picture(shown)
        if len(picture.nodes) > MOST_NODES:
            return Drawn(
                shown, note=f"{len(picture.nodes)} nodes are too many for one picture. Choose a service below."
            )
        try:
            return Drawn(shown, layout(picture))
        except ChoreoError as error:
            return Drawn(shown, note=str(error))

    def _unknown(self, focus: str) -> str:
        guess = alike(focus, sorted(self.site.app.observe.map().names))
        return f"Nothing on the map is named {focus}.{f' Did you mean {guess}?' if guess else ''}"


def level(states: Mapping[str, HandlerState], name: str) -> int:
    """The colour of a handler: 0 if nothing waits for it, up to the number of `LEVELS`."""
    state = states.get(name)
    return sum((state.waiting or 0) >= least for least in LEVELS) if state else 0
