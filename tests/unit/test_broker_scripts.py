"""The broker's Lua files: the house rules they keep."""

from importlib.resources import files

import pytest

from choreo.broker.scripts import Script, source_of

LUA = sorted(entry.name for entry in files("choreo.broker").joinpath("lua").iterdir() if entry.name.endswith(".lua"))


def _read(name: str) -> str:
    return files("choreo.broker").joinpath("lua", name).read_text()


@pytest.mark.parametrize("name", LUA)
def test_a_script_opens_with_its_keys_its_arguments_and_what_it_returns(name: str):
    lines = _read(name).splitlines()
    opening = []
    for line in lines[1:] if lines[0].startswith("#!") else lines:
        if not line.startswith("--"):
            break
        opening.append(line)
    text = "\n".join(opening)

    assert "KEYS" in text
    assert "ARGV" in text
    assert "Returns" in text or name == "wake.lua"


@pytest.mark.parametrize("name", LUA)
def test_the_time_is_the_servers(name: str):
    assert "os.time" not in _read(name)


def test_an_include_puts_the_shared_text_in_its_place():
    text = source_of("broadcast")

    assert "\n--!include" not in text
    assert "local function route(" in text
    assert "local function wake(" in text


def test_servers_before_redis_7_get_the_script_without_its_flags():
    take = Script.named("take")

    assert take.source.startswith("#!lua")
    assert not take.without_flags().source.startswith("#!")
    assert take.without_flags().sha != take.sha
