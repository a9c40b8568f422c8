"""Every Lua file keeps the house rules, and one loader reads them all."""

from pathlib import Path

import pytest

import choreo
from choreo.redis_client.scripts import Script, source_of

ROOMS = Path(choreo.__file__).parent
LUA = sorted(str(path.relative_to(ROOMS)) for path in ROOMS.rglob("*.lua"))


def _read(name: str) -> str:
    return (ROOMS / name).read_text()


@pytest.mark.parametrize("name", LUA)
def test_a_script_opens_with_its_keys_its_arguments_and_what_it_returns(name: str):
    lines = _read(name).splitlines()
    opening = []
    for line in lines[1:] if lines[0].startswith("#!") else lines:
        if not line.startswith("--"):
            break
        opening.append(line)
    text = "\n".join(opening)

    assert "KEYS" in text or "Shared" in text
    assert "ARGV" in text or "ARGV[" not in _read(name)
    assert "Returns" in text or "answers" in text or name.endswith("/wake.lua")


@pytest.mark.parametrize("name", LUA)
def test_the_time_is_the_servers(name: str):
    assert "os.time" not in _read(name)


@pytest.mark.parametrize("name", LUA)
def test_every_include_is_found(name: str):
    assert "\n--!include" not in source_of(name.replace("/lua/", "/").removesuffix(".lua"))


def test_an_include_puts_the_shared_text_in_its_place():
    text = source_of("broker/redis/broadcast")

    assert "local function route(" in text
    assert "local function wake(" in text


def test_servers_before_redis_7_get_the_script_without_its_flags():
    take = Script.load("broker/redis/take")

    assert take.source.startswith("#!lua")
    assert not take.without_flags().source.startswith("#!")
    assert take.without_flags().sha != take.sha
