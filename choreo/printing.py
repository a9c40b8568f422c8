"""Foreign text for people: in logs, tables and errors, without characters that act on a terminal or forge a line."""

import json
from typing import Any
from unicodedata import category


def one_line(text: str) -> str:
    """
    The text with an escape (such as ``\\x1b`` or ``\\n``) for each character that is not printed as itself.

    These are control characters, line ends, halves of surrogate pairs, and characters that change the direction of the
    text that follows.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def lines(text: str) -> str:
    """The same for a text of several lines, such as a traceback. Line ends and tabs stay."""
    return "\n".join("\t".join(map(one_line, line.split("\t"))) for line in text.split("\n"))


def json_line(record: Any) -> str:
    """The record as JSON in one line: readable text as it is, and with escapes if something in it is not printable."""
    text = json.dumps(record, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(record)


def _shown(char: str) -> str:
    # Spaces of other widths are not "printable" to Python.
    return char if char.isprintable() or category(char) == "Zs" else char.encode("unicode_escape").decode()
