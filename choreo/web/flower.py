"""
The pages as tabs in Flower, and all queues on its own page of the broker.

`celery -A shop.payment flower` is Flower as it is, and has them: `choreo.service` calls `complete` when Flower starts
with a service. Flower 2 has no hook for pages, so its application gets further routes, and a loader of templates that
adds the tabs to its navigation. The names of Flower that this file uses are few: the class ``Flower`` with its
``options``, the templates ``base.html`` and ``navbar.html``, and two methods of ``BaseHandler``.

Flower asks the workers for their queues. So the backlog of a service disappeared from its page while nobody worked on
it. Here it gets the names from the store as well.
"""

import logging
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from flower.app import Flower
from flower.views import BaseHandler
from tornado.template import BaseLoader, Loader, Template
from tornado.web import HTTPError

from choreo.errors import ChoreoError
from choreo.web.access import LOOPBACK, Access, is_loopback
from choreo.web.page import Page
from choreo.web.pages import TABS
from choreo.web.server import routes
from choreo.web.site import TEMPLATES, Site

logger = logging.getLogger(__name__)

#: The path of the pages, below Flower's own prefix.
PATH = "/choreo"
#: The first list of Flower's navigation, from its begin to before its end.
_NAVIGATION = re.compile(r"<ul[^>]*\bnavbar-nav\b.*?(?=\s*</ul>)", re.DOTALL)


def complete() -> None:
    """Let the Flower of this process have the tabs once it starts, and name the queues of the store."""
    if Flower.start.__module__ != __name__:
        Flower.start = _with_tabs(Flower.start)
    asked = BaseHandler.get_active_queue_names
    if asked.__module__ != __name__:
        BaseHandler.get_active_queue_names = with_known_queues(asked)


def _with_tabs(start: Callable[[Any], None]) -> Callable[[Any], None]:
    def started(flower: Any) -> None:
        site = add_tabs(flower)
        site.watch.start()
        start(flower)

    return started


def add_tabs(flower: Any) -> Site:
    """Add the pages to an application of Flower that serves nothing yet. Returns their site."""
    prefix = (flower.options.url_prefix or "").strip("/")
    base = f"/{prefix}{PATH}" if prefix else PATH
    site = Site(flower.capp, base=base, access=access_of(flower.options), allows_changes=may_change(flower))
    flower.settings["url_prefix"] = prefix
    flower.settings["template_loader"] = TabLoader(flower.settings["template_path"], site)
    flower.add_handlers(".*", routes(site, dressed))
    return site


def access_of(options: Any) -> Access:
    """
    Who may ask: everybody whom Flower lets in.

    Without a login, a page of a foreign site could read these pages under a name of its own (DNS rebinding). So they
    answer to addresses, and to the names of this machine.
    """
    if has_login(options):
        return Access(is_any_name=True)
    own = {socket.gethostname().lower(), socket.getfqdn().lower()}
    return Access({*LOOPBACK, *own}, is_any_address=True)


def may_change(flower: Any) -> bool:
    """True if the setting ``choreo_flower_changes`` allows changes, and not everybody can ask for one."""
    options = flower.options
    if not flower.capp.conf.get("choreo_flower_changes") or getattr(options, "read_only", False):
        return False
    if has_login(options) or is_loopback(options.address or ""):
        return True
    logger.warning(
        "choreo's tabs only read, although choreo_flower_changes is set: this Flower has no login (--basic-auth or "
        "--auth), and others than this machine reach it."
    )
    return False


def has_login(options: Any) -> bool:
    """True if Flower asks who somebody is."""
    return bool(options.basic_auth or options.auth)


class TabLoader(Loader):
    """Loads Flower's templates, with the tabs in its navigation; and those of the pages, in Flower's frame."""

    def __init__(self, root: str, site: Site) -> None:
        super().__init__(root, whitespace="single")
        self._tabs = "".join(_tab(page, site) for page in TABS)

    def resolve_path(self, name: str, parent_path: str | None = None) -> str:
        """Tornado's: the layout of the pages is another one in Flower."""
        return "in_flower.html" if name == "layout.html" else super().resolve_path(name, parent_path)

    def _create_template(self, name: str) -> Template:
        own = Path(self.root, name)
        text = (own if own.exists() else TEMPLATES / name).read_text(encoding="utf-8")
        if name == "navbar.html":
            text = _NAVIGATION.sub(lambda found: found[0] + self._tabs, text, count=1)
        return Template(text, name=name, loader=self, whitespace="single" if not own.exists() else None)


def _tab(page: type[Page], site: Site) -> str:
    mark = f'active_tab == "choreo {page.title}"'
    return (
        f'\n<li class="nav-item"><a class="nav-link{{% if {mark} %}} active{{% end %}}" '
        f'href="{site.link(page.paths[0].strip("/"))}"{{% if {mark} %}} aria-current="page"{{% end %}}>'
        f"{page.title}</a></li>"
    )


def dressed(page: type[Page]) -> type[Page]:
    """The page as Flower shows it."""
    return type(page.__name__, (InFlower, page), {})


class InFlower(Page):
    """A page in Flower: in its frame, and behind its login."""

    get_current_user = BaseHandler.get_current_user

    def prepare(self) -> None:
        """Ask who it is, as Flower does."""
        super().prepare()
        if not self._finished:
            self._ask_who()

    def _ask_who(self) -> None:
        try:
            is_known = bool(self.current_user)
        except HTTPError as error:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
            return self.turn_away(error.status_code, "Access denied")
        if is_known:
            return None
        if self.request.method == "GET":
            return self.redirect(f"{self.get_login_url()}?{urlencode({'next': self.request.uri})}")
        return self.turn_away(403, "Access denied")

    def create_template_loader(self, template_path: str) -> BaseLoader:  # noqa: ARG002 - Tornado's
        """The loader that knows Flower's templates as well."""
        loader: BaseLoader = self.application.settings["template_loader"]
        return loader

    def get_template_namespace(self) -> dict[str, Any]:
        """The names that every template knows, also those of Flower."""
        return super().get_template_namespace() | {"url_prefix": self.settings["url_prefix"]}

    @property
    def how_to_allow(self) -> str:
        """The way out of pages that only read."""
        return (
            "The tabs of choreo only read. Set choreo_flower_changes = True in the configuration to change something "
            "here, and give Flower a login."
        )


def with_known_queues(asked: Callable[[Any], list[str]]) -> Callable[[Any], list[str]]:
    """Return a method of Flower's views that adds the queues of the store to those that the workers named."""

    def queue_names(view: Any) -> list[str]:
        names = set(asked(view))
        try:
            names |= known_queues(view.application.capp.runtime)
        except ChoreoError as error:
            logger.warning("the queues of services that are down are not shown: %s", error)
        return sorted(names)

    return queue_names


def known_queues(runtime: Any) -> set[str]:
    """The queues of every service whose worker has ever started with this store. Raises `StoreError`."""
    return {runtime.queue_of(name) for name in runtime.store.handlers()}
