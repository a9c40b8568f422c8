"""
Changes to choreo's Lua scripts, in the process of a service and before it has sent any.

A change names the text that it replaces. Where that is not found the process ends: a defence that has moved must not
pass for one that is switched off.
"""

from choreo.broker.redis import scripts
from choreo.redis_client.scripts import Script
from choreo.store import redis as store


def in_broker(name: str, old: str, new: str) -> None:
    """Replace text in one of the broker's scripts."""
    constant = name.upper()
    setattr(scripts, constant, Script(name, _replaced(getattr(scripts, constant).source, old, new, name)))


def in_store(name: str, old: str, new: str) -> None:
    """Replace text in one of the store's scripts, with the functions that are put in front of it."""
    original = store.source_of
    _replaced(original(name), old, new, name)
    store.source_of = lambda other: _replaced(original(other), old, new, name) if other == name else original(other)


def _replaced(source: str, old: str, new: str, name: str) -> str:
    if old not in source:
        raise AssertionError(f"{name}.lua has no {old!r} any more: the sabotage has to follow the defence")
    return source.replace(old, new)
