"""Texts without passwords and refused data, for logs, reports and remote control."""

import re
from collections.abc import Mapping
from typing import Any

#: Takes the place of a password.
MASK = "**"

# A password may hold any character, also an @ that is not escaped: so all up to the last one goes.
_LOGIN = re.compile(r"(://[^:/?#@\s;,'\"]*):?[^\s;,'\"]*@")
_PARAMETER = re.compile(r"([?&][^=&\s;,]*(?:pass|secret|token|credential)[^=&\s;,]*=)[^&\s;,'\"]+", re.IGNORECASE)
_SECRET = re.compile("pass|secret|token|credential", re.IGNORECASE)

# Of an error of pydantic. The value is on one line, unless an object of the user's own writes several.
_INPUT = re.compile(r", input_value=.*, input_type=\w+(?=\])")
_LONG_INPUT = re.compile(r", input_value=.*?(?:, input_type=\w+(?=\])|\Z)", re.DOTALL)
_ADVICE = re.compile(r"\n +For further information visit https://errors\.pydantic\.dev/\S*")


def without_secrets(text: str) -> str:
    """
    The text of an error without passwords in URLs, and without the data that a pydantic model has refused.

        >>> without_secrets("total [type=missing, input_value={'card': '4000'}, input_type=dict] at redis://:pass@host")
        'total [type=missing] at redis://:**@host'
    """
    if "input_value=" in text:
        text = _ADVICE.sub("", _LONG_INPUT.sub("", _INPUT.sub("", text)))
    return without_passwords(text)


def without_passwords(text: str) -> str:
    """
    The text with `MASK` in place of the password of each URL in it.

        >>> without_passwords("redis://user:pa/ss@host:6379/0;redis://:pass@other?password=pass")
        'redis://user:**@host:6379/0;redis://:**@other?password=**'
    """
    return _PARAMETER.sub(rf"\1{MASK}", _LOGIN.sub(rf"\1:{MASK}@", text)) if "://" in text else text


def shown_url(url: str) -> str:
    """A setting's URL, or several with semicolons, without passwords and query. Works for a mistyped URL, too."""
    return ";".join(_shown(part) for part in url.split(";"))


def _shown(url: str) -> str:
    before, separator, rest = url.rpartition("://")
    access, at, place = rest.rpartition("@")
    user = re.match(r"[\w.-]*", access)
    # The query of a URL may hold a password, too.
    return f"{before}{separator}{user[0] if user and at else ''}{f':{MASK}@' if at else ''}{place.partition('?')[0]}"


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
