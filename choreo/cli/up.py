"""`choreo up`: runs all services of a package on this machine, until Ctrl-C."""

import json
import re
import shlex
import shutil
import signal
import sys
import textwrap
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from click.core import ParameterSource
from kombu.utils.url import maybe_sanitize_url

from choreo.cli.folding import wrap
from choreo.cli.where import Where
from choreo.errors import ChoreoError
from choreo.events.event import Event, known_events
from choreo.local.discovery import DiscoveryError, only_package
from choreo.local.platform import (
    BrokerUnreachableError,
    Platform,
    PlatformError,
    WorkerDiedError,
    describe_exit,
    log_end,
)
from choreo.local.server import NoServerError

#: The assumed width of the terminal, in columns.
WIDTH = 80
#: Seconds before a worker that ended unexpectedly is started again: the first pause, doubled up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
#: After so many seconds of uptime a worker gets the first pause again.
STEADY_SECONDS = 60.0
#: The number of events that a service handles at once. Small, because the machine runs all services.
CONCURRENCY = 2

#: The colours of the services in the log.
COLOURS = ("cyan", "yellow", "green", "magenta", "blue", "bright_cyan", "bright_yellow", "bright_green")
#: The beginning of a line of Celery's log. Only its time and level are shown.
LOG_LINE = re.compile(r"^\[\d{4}-\d\d-\d\d (?P<time>\d\d:\d\d:\d\d),\d+: (?P<level>\w+)/[^\]]*\] ")
#: A line about a run: see `choreo.delivery.run_log`. Its ids are not shown: `choreo up` shows few events at a time.
RUN_LINE = re.compile(r"^(?P<service>[\w-]+)\.(?P<what>.*) \[(?P<facts>[^\[\]]*story [^\[\]]*)\]$")
_LATER_ATTEMPT = re.compile(r"attempt (?!1 )\d+ of \d+")


class Refusal(click.ClickException):
    """The command cannot be carried out as given. No process is left running. The exit code is 2."""

    exit_code = 2


@click.command(context_settings={"show_default": True})
@click.argument("package", required=False, metavar="[PACKAGE]")
@click.option(
    "--broker",
    metavar="URL",
    envvar="CHOREO_BROKER_URL",
    show_envvar=True,
    help="A running broker. Default: an embedded server, whose data ends with it.",
)
@click.option(
    "--store",
    metavar="URL",
    envvar="CHOREO_STORE_URL",
    show_envvar=True,
    help="A Redis for the store. Default: the broker.",
)
@click.option(
    "--only", metavar="NAMES", multiple=True, help="Start these services only: payment,driver, or the option repeated."
)
@click.option(
    "--pool", metavar="POOL", help="The workers' pool, as for `celery worker`: prefork, threads, solo, gevent ..."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=CONCURRENCY,
    help="How many events each service handles at once.",
)
@click.option("--flower/--no-flower", default=False, help="Start Flower on a free port of this machine.")
@click.option("--pages/--no-pages", default=False, help="Serve choreo's pages on a free port of this machine.")
@click.option("--quiet", is_flag=True, help="Do not show the workers' logs.")
@click.option(
    "--logs",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Keep the logs here, as SERVICE.log. Default: they are removed at the end.",
)
def up(
    package: str | None,
    broker: str | None,
    store: str | None,
    only: tuple[str, ...],
    pool: str | None,
    concurrency: int,
    flower: bool,
    pages: bool,
    quiet: bool,
    logs: Path | None,
) -> None:
    """
    Run every service of PACKAGE on this machine, until Ctrl-C.

    Each service gets a `celery worker` process of its own. PACKAGE is any package whose modules define services; it is
    searched from the current directory. It can be left out if the directory holds only one.

    A module is imported only if its source declares handlers. A service that only publishes, and a script, are not run.

    When a worker ends unexpectedly, the end of its log is shown, and it is started again after 1 s; if it keeps
    ending, after up to 30 s. The other services stay up.

    After Ctrl-C or SIGTERM the workers finish their running handlers, for 10 s at most. A second Ctrl-C kills them. No
    process is left running, not even after `kill -9` of this command.

    The exit code is 0 after Ctrl-C, 1 if the services could not be started or the embedded server ended, and 2 if the
    command line cannot be carried out.
    """
    where = Where.of(click.get_current_context())
    if where.options & {"app", "namespace"}:
        raise Refusal("choreo up runs all services of a package, as they are configured: choreo up shop.")
    broker, store = broker or where.broker, store or where.store
    signal.signal(signal.SIGTERM, _interrupt)
    names = [name.strip() for names in only for name in names.split(",") if name.strip()]
    options = ["--concurrency", str(concurrency), *(["--pool", pool] if pool else [])]
    try:
        package = package or only_package(Path.cwd())
        platform = Platform(package, broker_url=broker, store_url=store, directory=logs, worker_options=options)
        _run(platform, names, flower, pages, quiet)
    except WorkerDiedError as error:
        raise click.ClickException(f"{error}\nEverything is stopped.") from error
    except BrokerUnreachableError as error:
        raise Refusal(f"{error}{_stale()}") from error
    except (DiscoveryError, NoServerError, PlatformError) as error:
        raise Refusal(str(error)) from error
    except ChoreoError as error:
        raise click.ClickException(str(error)) from error


def _stale() -> str:
    """The way out if the URL of the broker comes from the environment, such as that of a `choreo up` that has ended."""
    if click.get_current_context().get_parameter_source("broker") is not ParameterSource.ENVIRONMENT:
        return ""
    return (
        " The URL is in the environment of this shell, perhaps from a `choreo up` that has ended: `unset "
        "CHOREO_BROKER_URL CHOREO_STORE_URL`."
    )


def _run(platform: Platform, names: list[str], flower: bool, pages: bool, quiet: bool) -> None:
    began_at = time.monotonic()
    try:
        platform.open()
        platform.start(*names)
        _say(f"Starting {_listed(platform)} ...")
        platform.wait_ready()
        urls = {"Flower": platform.start_flower()} if flower else {}
        urls |= {"pages": platform.start_pages()} if pages else {}
        _say(f"Ready after {time.monotonic() - began_at:.1f} s.\n")
        _introduce(platform, urls)
        Supervisor(platform, quiet=quiet).watch()
    except KeyboardInterrupt:
        _say("\nStopping. Running handlers may finish; press Ctrl-C again to kill them.")
        _close(platform)
        _say("Everything is stopped.")
    finally:
        _close(platform)


def _close(platform: Platform) -> None:
    try:
        platform.close()
    except KeyboardInterrupt:
        platform.close(force=True)


def _introduce(platform: Platform, urls: Mapping[str, str]) -> None:
    """Print the URLs, and the commands to try. ``urls`` are those of what runs beside the workers, by name."""
    embedded = platform.server is not None
    note = "  (embedded: its data ends with it)" if embedded else ""
    _say(f"  broker  {maybe_sanitize_url(platform.broker_url)}{note}")
    if platform.given_store_url is not None:
        _say(f"  store   {maybe_sanitize_url(platform.given_store_url)}")
    for name, url in urls.items():
        _say(f"  {name:<6}  {url}")
    if platform.silent:
        names = ", ".join(f"{name} ({module})" for name, module in platform.silent.items())
        _say(textwrap.fill(f"Not started, since no handler is declared for it: {names}.", WIDTH))
    if len(spaces := [repr(name) if name else "no namespace" for name in platform.namespaces]) > 1:
        _say(
            textwrap.fill(f"The services have several namespaces: {', '.join(spaces)}. The last is used below.", WIDTH)
        )
    _say("\nAnnounce an event from a second terminal, in this directory:")
    for line in _exports(platform):
        _say(f"  {line}")
    _say(f"  choreo publish {_example(platform.package)}")
    if "pages" not in urls and find_spec("tornado") is not None:
        _say("\nOr look at the platform in a browser:\n  choreo web")
    _say("\nCtrl-C stops everything.\n")


def _exports(platform: Platform) -> list[str]:
    """Return shell commands for another terminal: broker, store and namespace. They work as they are printed."""
    said = {"CHOREO_BROKER_URL": platform.broker_url}
    if platform.given_store_url is not None:
        said["CHOREO_STORE_URL"] = platform.given_store_url
    namespaces = platform.namespaces
    if any(namespaces):
        said["CHOREO_NAMESPACE"] = namespaces[-1]
    lines = [f"export {name}={shlex.quote(value)}" for name, value in said.items()]
    given = [platform.given_store_url or "", "" if platform.server is not None else platform.broker_url]
    # The embedded server's password is shown, because it ends with this command. Other passwords are not: a file that
    # only this user can read has them.
    if not any("@" in url or "?" in url for url in given):
        return lines
    return [f". {shlex.quote(str(platform.write_private('environment', lines)))}"]


def _example(package: str) -> str:
    """Return arguments for `choreo publish` that announce the first event of the package."""
    root = package.partition(".")[0]
    for name, event in known_events().items():
        if event.__module__.partition(".")[0] == root:
            subject = f"{name.partition('.')[0]}-1".upper()
            return f"{name} --package {package} --subject {subject} --data '{{\n{_example_data(event)}}}'"
    return "order.placed --subject ORD-1 --data '{...}'"


def _example_data(event: type[Event]) -> str:
    samples = {"string": "...", "integer": 100, "number": 1.5, "boolean": True, "array": [], "object": {}}
    schema = event.model_json_schema()
    fields = {name: schema["properties"][name].get("type") for name in schema.get("required", [])}
    pairs = (f"{json.dumps(name)}: {json.dumps(samples.get(kind, '...'))}" for name, kind in fields.items())
    return textwrap.fill(", ".join(pairs), WIDTH - 6, initial_indent="    ", subsequent_indent="    ")


class Supervisor:
    """Shows the logs of the workers, and restarts workers that ended unexpectedly."""

    def __init__(self, platform: Platform, *, quiet: bool) -> None:
        self._platform = platform
        self._quiet = quiet
        services = platform.started
        self._width = max(map(len, services), default=0)
        self._tails = {name: LogTail(platform.log(name), platform.ready_at(name)) for name in services}
        self._colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(services)}
        self._pauses = dict.fromkeys(services, FIRST_PAUSE)
        self._ready_since: dict[str, float] = dict.fromkeys(services, time.monotonic())
        self._start_at: dict[str, float] = {}

    def watch(self) -> NoReturn:
        """Run until Ctrl-C. Raises ChoreoError when the embedded server has ended."""
        while True:
            self._show_logs()
            self._schedule_restarts()
            self._restart_due()
            self._report_ready()
            server = self._platform.server
            if server is not None and not server.running:
                raise ChoreoError(
                    f"The embedded server ended unexpectedly. The workers are stopped. The end of its log:\n"
                    f"{server.explanation()}"
                )
            time.sleep(0.1)

    def _show_logs(self) -> None:
        for name in self._ready_since:
            for line in self._tails[name].new_lines():
                if not self._quiet:
                    self._show(name, short_line(line, name))

    def _show(self, name: str, line: str) -> None:
        first, *rest = folded(line, _width() - self._width - 2)
        _say(f"{click.style(name.ljust(self._width), fg=self._colours[name])}  {first}")
        for part in rest:
            _say(f"{'':{self._width}}  {part}")

    def _schedule_restarts(self) -> None:
        for name, code in self._platform.exited.items():
            if name in self._start_at:
                continue
            up_for = time.monotonic() - self._ready_since.pop(name, time.monotonic())
            pause = FIRST_PAUSE if up_for >= STEADY_SECONDS else self._pauses[name]
            self._pauses[name] = min(pause * 2, LONGEST_PAUSE)
            self._start_at[name] = time.monotonic() + pause
            said = log_end("it", self._platform.last_lines(name), self._platform.trouble())
            self._alert(f"{name} {describe_exit(code)}. The end of its log:")
            _say(said.partition("\n")[2])
            self._alert(f"{name} is started again in {pause:g} s; the others stay up.")

    def _restart_due(self) -> None:
        for name, when in list(self._start_at.items()):
            if time.monotonic() >= when:
                self._platform.start(name)
                del self._start_at[name]

    def _report_ready(self) -> None:
        for name in self._pauses.keys() - self._ready_since.keys():
            if self._platform.is_ready(name):
                self._tails[name].position = self._platform.ready_at(name)
                self._ready_since[name] = time.monotonic()
                self._alert(f"{name} is ready again.")

    def _alert(self, text: str) -> None:
        _say(click.style(text, bold=True))


class LogTail:
    """Reads the lines that are added to a log file after `position`, an offset in bytes."""

    def __init__(self, path: Path, position: int) -> None:
        self.path = path
        self.position = position

    def new_lines(self) -> list[str]:
        """Return the lines that have been completed since the last call."""
        with self.path.open("rb") as file:
            file.seek(self.position)
            complete, end, _ = file.read().rpartition(b"\n")
        self.position += len(complete) + len(end)
        return complete.decode(errors="replace").splitlines()


def short_line(line: str, service: str = "") -> str:
    """
    Return a line of a worker's log with its time and, unless it is INFO, its level. Other lines stay unchanged.

    Of a run of this service, the service and the ids are left out.
    """
    found = LOG_LINE.match(line)
    if found is None:
        return line
    level = "" if found["level"] == "INFO" else f"{found['level']} "
    return f"{found['time']} {level}{_short_run(line[found.end() :], service)}"


def _short_run(text: str, service: str) -> str:
    found = RUN_LINE.match(text)
    if found is None or found["service"] != service:
        return text
    later = _LATER_ATTEMPT.search(found["facts"])
    return f"{found['what']} [{later[0]}]" if later else found["what"]


def folded(line: str, width: int) -> list[str]:
    """Return the line in parts of this width. Lines that do not begin with a time, such as JSON, stay in one piece."""
    if len(line) <= width or not re.match(r"\d\d:\d\d:\d\d ", line):
        return [line]
    return wrap(line, max(width, 40), " " * 9)


def _width() -> int:
    """The columns of the terminal. Output that no terminal shows is not folded."""
    return shutil.get_terminal_size((WIDTH, 24)).columns if sys.stdout.isatty() else sys.maxsize


def _listed(platform: Platform) -> str:
    names = platform.started
    services = "1 service" if len(names) == 1 else f"{len(names)} services"
    return textwrap.fill(f"{services} of {platform.package}: {', '.join(names)}", WIDTH - 14)


def _say(text: str) -> None:
    click.echo(text)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
