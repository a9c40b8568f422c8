"""Causes of failures: what failures of one kind have in common, so that they can be counted, and repaired together."""

import json
import re
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha1
from pathlib import Path
from traceback import walk_tb

from choreo.delivery.failure import line_of

#: The most characters of a folded message.
MOST_TEXT = 200
#: Takes the place of each variable part of a message.
FOLDED = "#"

#: ``ConnectionError: the gateway is away``, or ``ConnectionError``. A name in lower case has a module before it.
_LINE = re.compile(r"((?:\w+\.)+\w+|[A-Z]\w*)(?:: (.*))?", re.DOTALL)
#: A word between quotation marks, all that an error says: the name of a field or a key.
_NAME = re.compile(r"'[^\W\d]+'")
#: A quoted value, or a word as ids, dates and addresses are written.
_QUOTED = re.compile(r"""(?<!\w)(?:'[^']*'|"[^"]*"|`[^`]*`)(?!\w)""")
_WORD = re.compile(r"(?:(?<!\w)[+-])?\w[\w./:@+-]*")
_DIGIT = re.compile(r"\d|\w@\w")
#: Stands before a number that is no variable part.
_VERSION = " version "
_SEVERAL = re.compile(rf"{FOLDED}(?:[,;]? {FOLDED})+")

#: A frame of a traceback. In an exception group, the frames of the group itself stand behind one bar.
_FRAME = re.compile(r'^(?:  \|)?   ?File "([^"\n]+)", line (\d+), in (\S+)', re.MULTILINE)
_BEGINNING = re.compile(r"^(?:  \+ Exception Group )?Traceback \(most recent call last\):", re.MULTILINE)

#: Folders of code that is not the user's.
_OWN = str(Path(__file__).parents[1]) + "/"
_STANDARD = sysconfig.get_paths()["stdlib"] + "/"
_INSTALLED = re.compile(r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\]python3[^/\\]*[/\\]")

#: File, line and function.
_Place = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a handler failed. Two failures are of one kind if the `kind` of their causes is the same."""

    #: The name of the error's type; "" if no exception was raised.
    error: str
    #: The message, with `FOLDED` in place of its variable parts.
    text: str
    #: Where the error was raised, in the innermost frame of the user's own code: the name of the file without its
    #: ending, the function, and the line. "" and 0 if there is no such frame.
    file: str = ""
    function: str = ""
    line: int = 0

    @property
    def kind(self) -> str:
        """The type, place and message. The line is not part of it: it changes with each edit of the file."""
        place = f"{self.file}.{self.function}" if self.file else ""
        return " ".join(filter(None, (self.error, place, self.text)))

    def to_json(self, reason: str) -> str:
        """Return the cause, and the reason of a dead letter, as one JSON object: the text about a group of letters."""
        return json.dumps(asdict(self) | {"reason": reason})

    @classmethod
    def from_json(cls, text: str) -> tuple["Cause", str]:
        """Read a cause and a reason that `to_json` wrote. Raises `ValueError` for any other text."""
        try:
            record = json.loads(text)
            return cls(**{name: kind(record[name]) for name, kind in _FIELDS.items()}), str(record["reason"])
        except (TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"{text!r} is no cause") from error

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file else ""
        return ": ".join(filter(None, (f"{self.error} {place}".strip(), self.text)))


#: The fields of a cause, and their types.
_FIELDS: dict[str, type] = {"error": str, "text": str, "file": str, "function": str, "line": int}


def cause_of(error: BaseException) -> Cause:
    """The cause of a failure. Never raises, even if the error's own text does."""
    frames = ((frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in walk_tb(error.__traceback__))
    return _cause(line_of(error), frames)


def read_cause(error: str, trace: str) -> Cause:
    """The cause of a failure of which the texts are known: `failure.line_of` and `failure.trace_of`."""
    return _cause(error, _frames_in(trace))


def group_of(handler: str, reason: str, cause: Cause) -> str:
    """The group of dead letters with this handler, reason and cause: 16 hexadecimal digits."""
    name = "\n".join((handler, reason, cause.kind))
    return sha1(name.encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()[:16]


def folded(message: str) -> str:
    """
    The message, with `FOLDED` in place of ids, numbers, dates, addresses and quoted values.

    The number of a version stays: it is no data of one event, and another version is another cause.

        >>> folded("order ORD-17 of 'anna' was refused by 10.0.0.7:443")
        'order # of # was refused by #'
        >>> folded("ORD-17 has version 2")
        '# has version 2'
    """
    if _NAME.fullmatch(message):
        return message
    # Beyond that it is most likely data.
    known = _WORD.sub(_folded_word, _QUOTED.sub(FOLDED, message[: 10 * MOST_TEXT]))
    return _SEVERAL.sub(FOLDED, known)[:MOST_TEXT]


def _folded_word(found: re.Match[str]) -> str:
    word = found[0].rstrip("./:@+-")
    if word.isdecimal() and found.string.endswith(_VERSION, 0, found.start()):
        return found[0]
    return (FOLDED if _DIGIT.search(word) else word) + found[0][len(word) :]


def _cause(error: str, frames: Iterable[_Place]) -> Cause:
    found = _LINE.fullmatch(error)
    kind, message = (found[1].rpartition(".")[2], found[2] or "") if found else ("", error)
    file, line, function = _innermost(frames)
    return Cause(kind, folded(message), re.split(r"[/\\]", file)[-1].removesuffix(".py"), function, line)


def _frames_in(trace: str) -> Iterator[_Place]:
    """The frames of the error itself, which is the last one of a chain."""
    last = max((found.start() for found in _BEGINNING.finditer(trace)), default=0)
    return ((file, int(line), function) for file, line, function in _FRAME.findall(trace, last))


def _innermost(frames: Iterable[_Place]) -> _Place:
    own = [frame for frame in frames if _is_users(frame[0])]
    return own[-1] if own else ("", 0, "")


def _is_users(file: str) -> bool:
    return not (file.startswith(("<", _OWN, _STANDARD)) or _INSTALLED.search(file))
