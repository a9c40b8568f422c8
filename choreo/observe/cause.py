"""Causes: why something has not happened, whether it goes on by itself, and the next step of an operator."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from choreo.printing import one_line

#: What an operator does where everything goes on by itself.
NOTHING = ("# nothing: it goes on by itself",)


class Weight(IntEnum):
    """How much a cause matters. Of several causes, the heaviest is told."""

    #: Everything is done.
    DONE = 0
    #: It goes on by itself.
    WAITING = 1
    #: Nobody knows if it goes on.
    UNKNOWN = 2
    #: It does not go on by itself.
    STUCK = 3


@dataclass(frozen=True)
class Cause:
    """Why something has not happened."""

    #: A word for programs, such as "no worker" or "dead letter".
    name: str
    #: A sentence without a full stop.
    text: str
    #: The next steps, one a line: commands for a shell, and remarks, which begin with "#" as in a shell.
    do: Sequence[str]
    weight: Weight = Weight.STUCK
    #: Since when, in seconds since 1970. None: unknown.
    since: float | None = None


def command(*words: str) -> str:
    """A command for a shell. Foreign words, such as the subject of an event, are quoted where that is necessary."""
    return shlex.join(map(one_line, words))


def heaviest(causes: Sequence[Cause]) -> Cause | None:
    """The cause that matters most: of two that matter as much, the older one. None if there is none."""
    return min(causes, key=lambda one: (-one.weight, one.since or float("inf")), default=None)
