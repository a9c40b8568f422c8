"""Texts without passwords, for logs, reports and remote control."""

import re
from collections.abc import Mapping
from typing import Any

#: Takes the place of a password.
MASK = "**"

# A password may hold any character, also an @ that is not escaped: so all up to the last one goes.
_LOGIN = re.compile(r"(://[^:/?#@\s;,'\"]*):?[^\s;,'\"]*@")
_PARAMETER = re.compile(r"([?&][^=&\s;,]*(?:pass|secret|token|credential)[^=&\s;,]*=)[^&\s;,'\"]+", re.IGNORECASE)
_SECRET = re.compile("pass|secret|token|credential", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """
    The text with `MASK` in place of the password of each URL in it.

        >>> without_passwords("redis://user:pa/ss@host:6379/0;redis://:pass@other?password=pass")
        'redis://user:**@host:6379/0;redis://:**@other?password=**'
    """
    return _PARAMETER.sub(rf"\1{MASK}", _LOGIN.sub(rf"\1:{MASK}@", text)) if "://" in text else text


def masked(value: Any) -> Any:
    """A value of plain types with `MASK` in place of each password: in a URL, or in an entry that has such a name."""
    if isinstance(value, str):
        return without_passwords(value)
    if isinstance(value, Mapping):
        return {name: MASK if _is_secret(name, part) else masked(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        parts = [masked(part) for part in value]
        return type(value)(parts) if type(value) in (list, tuple, set, frozenset) else parts
    return value


def _is_secret(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, str | bytes) and bool(value and _SECRET.search(name))
