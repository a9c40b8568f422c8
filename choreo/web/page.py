"""One page: how it asks, how it is shown, how it changes something, and what it says if that fails."""

import logging
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, TypeVar

from tornado.template import BaseLoader, Loader
from tornado.web import HTTPError, RequestHandler

from choreo import __version__
from choreo.errors import ChoreoError, StoreError
from choreo.observe import figures, words
from choreo.operate.repairs import this_person
from choreo.printing import one_line
from choreo.web.access import HEADERS, is_loopback, is_own_form, login
from choreo.web.site import TEMPLATES, Site

logger = logging.getLogger("choreo.web")

#: The most characters of the reason for a change.
LONGEST_REASON = 200

T = TypeVar("T")


class Page(RequestHandler):
    """
    The base of all pages.

    A page has a `title`, and one or more `paths`. Its method `get` is a coroutine: it asks for what it shows with
    `ask`, and shows it with `show`. A page that changes something has a coroutine `post`, which begins with `reason`,
    and ends with `changed`. The file choreo/web/pages.py lists all pages.
    """

    #: The name of its tab.
    title: ClassVar[str] = ""
    #: Regular expressions of its paths, below the base. The first one, without groups, is that of its tab.
    paths: ClassVar[tuple[str, ...]] = ()
    #: The pages with a tab: set by `choreo.web.pages`.
    tabs: ClassVar[tuple[type["Page"], ...]] = ()

    site: Site

    def initialize(self, site: Site) -> None:
        """Tornado's: the arguments of the route."""
        self.site = site

    # -- for pages -----------------------------------------------------------------------------------------------

    async def ask(self, question: Callable[[], T]) -> T:
        """Call this in a thread: see `Site.ask`."""
        return await self.site.ask(question)

    def show(self, template: str, **facts: Any) -> None:
        """Send the page: this template with these facts, in the common layout."""
        self.render(template, **facts)

    def text(self, name: str, default: str = "") -> str:
        """An argument of the request, without spaces around it."""
        # Not by `get_argument`: it replaces control characters, and a subject may have them.
        given = self.request.arguments.get(name)
        return given[-1].decode(errors="replace").strip() if given else default

    def number(self, name: str, default: int, most: int) -> int:
        """An argument of the request as a number from 0 to ``most``; the default if it is none."""
        told = self.text(name)
        return min(int(told), most) if told.isascii() and told.isdigit() and len(told) < 10 else default

    def missing(self, text: str) -> NoReturn:
        """Raise the error of a page for something that is not there: 404, with this text."""
        raise HTTPError(404, text)

    def reason(self) -> str:
        """
        The reason for a change, from the field ``reason`` of the form.

        Raises `HTTPError` if there is none, or the pages only read.
        """
        self.check_changes()
        told = one_line(self.text("reason"))[:LONGEST_REASON]
        if not told:
            self.refuse("Say why: every change asks for a reason, which is kept in the log.")
        return told

    def check_changes(self) -> None:
        """Raise `HTTPError` if the pages only read."""
        if not self.site.allows_changes:
            raise HTTPError(403, self.how_to_allow)

    def refuse(self, text: str) -> NoReturn:
        """Raise the error of a form that cannot be carried out as it is: 400, with this text."""
        raise HTTPError(400, text)

    async def paused_note(self, handler: str) -> str:
        """A sentence, with a space before, if what was sent to a handler waits until that is resumed; "" if not."""
        pause = await self.ask(lambda: self.site.app.pauses.get(handler))
        if pause is None or not pause.is_stop:
            return ""
        return f" {handler} is paused: this waits in its queue until it is resumed."

    def changed(self, text: str, back: str, *, reason: str = "") -> None:
        """Log what was changed, and show the page at the address ``back`` with this text on it."""
        logger.info("%s By %s%s", one_line(text), self.actor, f": {reason}" if reason else "")
        joint = "&" if "?" in back else "?"
        self.redirect(f"{back}{joint}news={self.site.leave_news(text)}", status=303)

    @property
    def actor(self) -> str:
        """Who asks, for logs: the name that was given with the password, or that of this person on this machine."""
        given = self.current_user if isinstance(self.current_user, str) else ""
        user = given or login(self.request.headers.get("Authorization", ""))[0]
        at = str(self.request.remote_ip)
        return f"{one_line(user)}@{at} (web)" if user else f"{this_person() if is_loopback(at) else at} (web)"

    @property
    def how_to_allow(self) -> str:
        """The way out of pages that only read."""
        return "These pages only read. Start them with `choreo web --allow-changes` to change something here."

    # -- Tornado's -----------------------------------------------------------------------------------------------

    def set_default_headers(self) -> None:
        """Set the headers of every answer."""
        for name, value in HEADERS.items():
            self.set_header(name, value)
        self.set_header("Cache-Control", "no-store")
        self.clear_header("Server")

    def prepare(self) -> None:
        """Refuse a request for a foreign host, without the password, or from a form of a foreign page."""
        if self._is_turned_away():
            return
        if self.request.method == "POST" and not is_own_form(self.request.headers, self.request.host):
            raise HTTPError(403, "This form is not from these pages, so nothing was changed.")

    def _is_turned_away(self) -> bool:
        """Answer a request for a foreign host, or without the password, and return True. False for any other."""
        access = self.site.access
        if not access.knows(self.request.host_name):
            self.turn_away(403, f"These pages answer to {', '.join(sorted(access.names))} only.")
        elif not access.lets_in(self.request.headers.get("Authorization", "")):
            self.set_header("WWW-Authenticate", 'Basic realm="choreo", charset="UTF-8"')
            self.turn_away(401, "These pages ask for a password. The user name can be anything.")
        return self._finished

    def turn_away(self, status: int, text: str) -> None:
        """Answer with this text, and with nothing about the platform."""
        self.set_status(status)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.finish(f"{text}\n")

    def write_error(self, status_code: int, **options: Any) -> None:
        """Show what went wrong, and the way out."""
        # Tornado refuses some requests before `prepare`: a form without its token, an unknown method.
        if self._is_turned_away():
            return None
        error = (options.get("exc_info") or (None, None))[1]
        if isinstance(error, StoreError):
            self.set_status(503)
            # Without script, too, the page comes back by itself.
            self.set_header("Refresh", "5")
            return self.show("fault.html", heading="The store does not answer", text=str(error), is_away=True)
        if isinstance(error, ChoreoError):
            self.set_status(400)
            return self.show("fault.html", heading="That did not work", text=str(error), is_away=False)
        told = (error.log_message or "") % () if isinstance(error, HTTPError) else ""
        heading, text = _FAULTS.get(status_code, (f"Error {status_code}", ""))
        return self.show("fault.html", heading=heading, text=told or text, is_away=False)

    def log_exception(self, kind: Any, error: Any, trace: Any) -> None:
        """Log an error that is not one of the platform, with its traceback."""
        if not isinstance(error, (ChoreoError, HTTPError)):
            logger.error("The page %s failed", self.request.path, exc_info=(kind, error, trace))

    def get_template_path(self) -> str:
        """The folder of the templates."""
        return str(TEMPLATES)

    def create_template_loader(self, template_path: str) -> BaseLoader:
        """The loader of the templates."""
        return Loader(template_path, whitespace="single")

    def get_template_namespace(self) -> dict[str, Any]:
        """The names that every template knows."""
        site = self.site
        return super().get_template_namespace() | {
            "page": self,
            "site": site,
            "link": site.link,
            "static": site.static,
            "tabs": Page.tabs,
            "news": site.news(self.get_argument("news", "")),
            "figures": figures,
            "words": words,
            "version": __version__,
        }


class Home(Page):
    """The page without a path: leads to the first tab."""

    async def get(self) -> None:
        """Lead there."""
        self.redirect(self.site.link(Page.tabs[0].paths[0].strip("/")))


class NotFound(Page):
    """The page for any other path."""

    title = "Not found"

    async def prepare(self) -> None:  # type: ignore[override]
        """Answer that there is no such page."""
        super().prepare()
        if not self._finished:
            raise HTTPError(404)


_FAULTS = {
    400: ("That cannot be done", "The request is not complete."),
    403: ("Not allowed", "The form is too old, or not from these pages. Go back, reload the page and try again."),
    404: ("Not found", "There is no such page."),
    405: ("Not allowed", "This page cannot be changed."),
    500: ("This page failed", "It is a fault of choreo. The log of the server has its traceback."),
}
