"""
The broker's Lua scripts: one decision each, one file each, in `lua/`.

A script is sent by its SHA1 and loaded when the server does not know it (yet, or any more).
A line `--!include name` in a script is replaced by `lua/name.lua`, so that other scripts, also those
of the store, can route and wake exactly as the broker does.

    >>> BROADCAST.sha == Script.named("broadcast").sha
    True
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Self

_INCLUDE = re.compile(r"^--!include (\w+)\n", re.MULTILINE)


def source_of(name: str) -> str:
    """The text of `lua/<name>.lua` with its includes in place."""
    text = files("choreo.broker").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda include: source_of(include.group(1)), text)


@dataclass(frozen=True, eq=False)
class Script:
    """A Lua script and the name under which the server knows it."""

    name: str
    source: str = field(repr=False)
    sha: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())

    @classmethod
    def named(cls, name: str) -> Self:
        return cls(name, source_of(name))

    def without_flags(self) -> Script:
        """The same script for servers before Redis 7, which do not know the `#!lua` line."""
        first, _, rest = self.source.partition("\n")
        return Script(self.name, rest if first.startswith("#!") else self.source)


ACK = Script.named("ack")
BEAT = Script.named("beat")
BIND = Script.named("bind")
BROADCAST = Script.named("broadcast")
FORGET = Script.named("forget")
GIVE_BACK = Script.named("give_back")
LEAVE = Script.named("leave")
PEEK = Script.named("peek")
PUT = Script.named("put")
TAKE = Script.named("take")
UNBIND = Script.named("unbind")
