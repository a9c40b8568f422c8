"""docs/reference.md names every setting and every option, with its default."""

import inspect
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest

import choreo
from choreo import Breaker, Event, Retry, Series, Service, Several, Terms, Upcast
from choreo.cli import choreo as command_line
from choreo.declare.settings import LOG_FORMATS, MAX_HOPS, SETTINGS, SHUTDOWN_TIMEOUT, Unheard
from choreo.events.signing import MODES
from choreo.runtime import defaults
from choreo.store.runs import Recording
from tests.unit.stage import service

TEXT = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
#: What a heading of the page is about.
DECLARED: dict[str, Any] = {
    "Service": Service.__init__,
    "@app.on": Service.on,
    "@app.join": Service.join,
    "app.story": Service.story,
    "Several": Several,
    "Breaker": Breaker,
    "Series": Series,
    "Retry": Retry,
    "Terms": Terms,
    "app.publish": Service.publish,
    "app.publish_many": Service.publish_many,
    "Event": Event.__pydantic_init_subclass__,
    "Upcast": Upcast,
}
#: The defaults of choreo's settings that are values.
SETTING_DEFAULTS = {
    "choreo_unheard": Unheard.LOG,
    "choreo_shutdown_timeout": SHUTDOWN_TIMEOUT,
    "choreo_fast_lane": True,
    "choreo_bundles": True,
    "choreo_flower_changes": False,
    "choreo_allow_edit": False,
    "choreo_signing": MODES[0],
    "choreo_intake": False,
    "choreo_log_format": LOG_FORMATS[0],
    "choreo_max_hops": MAX_HOPS,
    "choreo_record_length": Recording().length,
    "choreo_record_sample": Recording().sample,
    "choreo_record_events": Recording().events,
}


def rows(heading: str) -> dict[str, str]:
    """The first two columns of the table under a heading."""
    section = re.split(r"\n##", TEXT.partition(f"{heading}\n")[2])[0]
    return dict(re.findall(r"^\| `([^`]+)` \| (.*?) \|", section, re.MULTILINE))


def assert_default(cell: str, default: Any) -> None:
    """A default that is a value is in the table as code. Others are said in words."""
    if default is inspect.Parameter.empty:
        assert cell == "required"
    elif cell.startswith("`"):
        assert eval(cell.strip("`"), {"Retry": Retry, "Terms": Terms, "timedelta": timedelta}) == default
    else:
        assert default is None, f"{cell} is {default!r}"


@pytest.mark.parametrize("heading", DECLARED)
def test_every_option_is_there_with_its_default(heading: str) -> None:
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    declared = {
        # A dataclass makes the default of a dict anew.
        name: None if repr(parameter.default) == "<factory>" else parameter.default
        for name, parameter in inspect.signature(DECLARED[heading]).parameters.items()
        if name != "self" and parameter.kind not in variable
    }
    found = rows(f"### `{heading}`")

    assert list(found) == list(declared)
    for name, cell in found.items():
        assert_default(cell, declared[name])


def test_every_setting_is_there_with_its_default() -> None:
    found = rows("## Settings")

    assert sorted(found) == sorted(SETTINGS)
    for name, cell in found.items():
        assert_default(cell, SETTING_DEFAULTS.get(name))


def test_every_other_default_of_a_setting_of_celerys_is_there() -> None:
    found = rows("### Celery's settings")
    declared = {name: value for name, value in defaults(service("payment").runtime).items() if name not in SETTINGS}

    assert sorted(found) == sorted(declared)
    for name, cell in found.items():
        if cell.startswith("`") and cell.endswith("`"):
            assert eval(cell.strip("`")) == declared[name]


@pytest.mark.parametrize("name", ["publish", "publish_many"])
def test_the_twin_for_coroutines_has_the_same_options(name: str) -> None:
    twin, own = (
        {key: (one.kind, one.default) for key, one in inspect.signature(method).parameters.items()}
        for method in (getattr(Service, f"a{name}"), getattr(Service, name))
    )
    assert twin == own


@pytest.mark.parametrize("name", choreo.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert f"`{name}`" in TEXT or re.search(rf"import [^`]*\b{name}\b", TEXT), f"docs/reference.md does not name {name}"


def commands(command: click.Command, name: str = "") -> Iterator[str]:
    """The row of each command: its name, and its options without those that (nearly) all have."""
    if isinstance(command, click.Group):
        for inner in command.list_commands(None):  # type: ignore[arg-type]
            yield from commands(command.get_command(None, inner), f"{name} {inner}".strip())  # type: ignore[arg-type]
        return
    own = [option for option in command.params if isinstance(option, click.Option)]
    names = [
        f"`{'/'.join([*option.opts, *option.secondary_opts])}{f' {option.metavar}' if option.metavar else ''}`"
        for option in own
        if name == "up" or not {"--app", "--broker", "--store", "--namespace"} & set(option.opts)
    ]
    yield f"| `{name}` | {', '.join(names)} |"


def test_every_command_is_there_with_its_options() -> None:
    expected = list(commands(command_line))

    listed = [line for line in TEXT.partition("## On the command line")[2].splitlines() if line.startswith("| `")]
    assert listed == expected, "put this into docs/reference.md:\n" + "\n".join(expected)
