"""`choreo web`: serves the pages of a platform."""

import asyncio
import signal
from typing import TYPE_CHECKING

import click

from choreo.cli.app import place_of, say, speaking
from choreo.service import Service

if TYPE_CHECKING:
    from choreo.web.access import Access

#: Beside Flower's 5555.
PORT = 5556


@click.command(context_settings={"show_default": True})
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, help="0: a free one.")
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Any but this machine's own needs --password.")
@click.option(
    "--password",
    metavar="TEXT",
    envvar="CHOREO_WEB_PASSWORD",
    show_envvar=True,
    help="Ask for it. The user name can be anything.",
)
@click.option("--name", "names", metavar="NAME", multiple=True, help="A further name under which browsers may ask.")
@click.option("--allow-changes", is_flag=True, help="Also let the pages change something. Each change asks why.")
@speaking
def web(app: Service, port: int, host: str, password: str | None, names: tuple[str, ...], allow_changes: bool) -> None:
    """
    Serve pages that show the platform, until Ctrl-C.

    They listen on this machine only, and they only read. The same pages are tabs in Flower: `celery -A shop.payment
    flower`.

    \b
    choreo web
    choreo web --allow-changes
    CHOREO_WEB_PASSWORD=... choreo web --host 0.0.0.0 --name ops.example.com
    """
    access = _access(host, password, names)
    from choreo.web.site import Site

    app.runtime.store.ping()
    _serve(Site(app, access=access, allows_changes=allow_changes), host, port)


def _access(host: str, password: str | None, names: tuple[str, ...]) -> "Access":
    try:
        import tornado  # noqa: F401
    except ImportError as error:
        raise click.ClickException("choreo web needs Tornado. Install it: pip install 'celery-choreo[web]'.") from error
    from choreo.web.access import LOOPBACK, Access, is_loopback

    if not is_loopback(host) and not password:
        raise click.UsageError(
            f"--host {host} lets others than this machine ask, and they would need no password. Set "
            f"CHOREO_WEB_PASSWORD, or leave --host out."
        )
    known = {*LOOPBACK, host.strip("[]").lower(), *(name.lower() for name in names)}
    return Access(frozenset(known), is_any_address=not is_loopback(host), password=password or "")


def _serve(site: object, host: str, port: int) -> None:
    from choreo.web.server import serve
    from choreo.web.site import Site

    assert isinstance(site, Site)

    def started(port: int) -> None:
        at = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
        may = "They can change it." if site.allows_changes else "They only read; --allow-changes lets them change it."
        say(f"http://{at}:{port}/ shows the platform at {place_of(site.app)}. {may} Ctrl-C ends it.")

    async def until_told() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        await serve(site, host, port, started)

    try:
        asyncio.run(until_told())
    except asyncio.CancelledError:
        pass
    except OSError as error:
        raise click.ClickException(f"{host}:{port}: {error.strerror}. Name another one: --port, --host.") from error
