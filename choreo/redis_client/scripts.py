"""
The loader of all Lua scripts: one decision per script, one file per script, in the `lua/` folder of its package.

A script is named by its package and file: ``store/begin`` is ``choreo/store/lua/begin.lua``. A line ``--!include
broker/redis/wake`` is replaced by the text of that file, so that scripts share functions.
A script is called by its SHA1, and loaded when the server does not know it.

    >>> Script.load("broker/redis/broadcast").name
    'broker/redis/broadcast'
"""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Self

_INCLUDE = re.compile(r"^--!include ([\w/]+)\n", re.MULTILINE)


def source_of(name: str) -> str:
    """The text of a script, with each include replaced by the text of its file."""
    room, _, file = name.rpartition("/")
    text = files("choreo").joinpath(*room.split("/"), "lua", f"{file}.lua").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda include: source_of(include.group(1)), text)


@dataclass(frozen=True, eq=False)
class Script:
    """A Lua script and the SHA1 by which the server knows it."""

    name: str
    source: str = field(repr=False)
    sha: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())

    @classmethod
    @cache
    def load(cls, name: str) -> Self:
        """The script of this name. Each file is read once per process."""
        return cls(name, source_of(name))

    def without_flags(self) -> "Script":
        """The same script for servers before Redis 7, which do not know the ``#!lua`` line."""
        first, _, rest = self.source.partition("\n")
        return Script(self.name, rest if first.startswith("#!") else self.source)
