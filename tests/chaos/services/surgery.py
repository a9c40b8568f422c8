"""
Changes to choreo's Lua scripts, in the process of a service and before it has sent any.

A change names the text that it replaces. Where that is not found the process ends: a defence that has moved must not
pass for one that is switched off.
"""

from choreo.broker.redis import scripts
from choreo.redis_client import scripts as loader
from choreo.redis_client.scripts import Script


def in_broker(name: str, old: str, new: str) -> None:
    """Replace text in one of the broker's scripts, in the place of its constant."""
    constant = name.upper()
    script = getattr(scripts, constant)
    setattr(scripts, constant, Script(script.name, _replaced(script.source, old, new, name)))


def in_script(name: str, old: str, new: str) -> None:
    """Replace text in a script that is loaded when it is needed, such as "store/begin", with its includes."""
    original = loader.source_of
    _replaced(original(name), old, new, name)
    loader.source_of = lambda other: _replaced(original(other), old, new, name) if other == name else original(other)
    Script.load.cache_clear()


def _replaced(source: str, old: str, new: str, name: str) -> str:
    if old not in source:
        raise AssertionError(f"{name}.lua has no {old!r} any more: the sabotage has to follow the defence")
    return source.replace(old, new)
