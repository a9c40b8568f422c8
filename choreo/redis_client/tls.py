"""TLS to a Redis server: the URLs and settings that ask for it, and its options. Broker and store share these rules."""

import ssl
from collections.abc import Mapping
from inspect import signature
from typing import Any
from urllib.parse import unquote_plus

import redis

from choreo.errors import DeclarationError
from choreo.guesses import hint

#: URL schemes that ask for TLS.
_SECURE = ("rediss", "valkeys")
_REQUIREMENTS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
#: Options of redis-py that are True or False.
_FLAGS = ("ssl", "ssl_check_hostname", "ssl_validate_ocsp", "ssl_validate_ocsp_stapled")
_NAMES = tuple(name for name in signature(redis.SSLConnection.__init__).parameters if name.startswith("ssl_"))


def scheme_of(url: str) -> str:
    """The scheme of a URL in lower case; "" if it has none."""
    scheme, separator, _ = url.strip().partition("://")
    return scheme.lower() if separator else ""


def tls_options(url: str, use_ssl: Any = None) -> dict[str, Any]:
    """
    The options of redis-py's `SSLConnection` for this URL; {} if the connection is to be in clear.

    ``url`` may be several URLs, separated by semicolons: they are nodes of one server. ``use_ssl`` is Celery's setting
    `broker_use_ssl`. TLS is asked for by the scheme `rediss` or `valkeys`, by a parameter `ssl` or `ssl_...` in the
    query of a URL, and by ``use_ssl``: True, or a dict of options. The query goes before ``use_ssl``. The certificate
    of the server is verified unless an option says otherwise. A socket of this machine has no TLS.

    Raises `DeclarationError` for an option that does not exist or has no such value.
    """
    parts = [part for part in url.split(";") if scheme_of(part) not in ("unix", "redis+socket", "choreo+socket")]
    if not parts:
        return {}
    queries = [_read(part)[1] for part in parts]
    options = _given(use_ssl) | {name: value for query in queries for name, value in query.items()}
    checked = {name: _checked(name, value) for name, value in options.items()}
    wanted = any(scheme_of(part) in _SECURE for part in parts) or bool(use_ssl)
    if not (checked.pop("ssl", False) or checked or wanted):
        return {}
    return {"ssl_cert_reqs": ssl.CERT_REQUIRED} | checked


def without_tls(url: str) -> str:
    """The URL, or several separated by semicolons, without the parameters that `tls_options` reads from its query."""
    return ";".join(_read(part)[0] for part in url.split(";"))


def _read(url: str) -> tuple[str, dict[str, str]]:
    """A URL without its TLS parameters, and these."""
    rest, _, query = url.partition("?")
    found, others = {}, []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name == "ssl" or name.startswith("ssl_"):
            found[name] = unquote_plus(value)
        elif pair:
            others.append(pair)
    return "?".join([rest, "&".join(others)]) if others else rest, found


def _given(use_ssl: Any) -> dict[str, Any]:
    if isinstance(use_ssl, Mapping):
        return dict(use_ssl)
    if use_ssl is None or isinstance(use_ssl, bool):
        return {}
    raise DeclarationError(
        f"broker_use_ssl = {use_ssl!r}: it takes True, False or a dict of options, such as "
        '{"ssl_ca_certs": "/etc/ssl/ca.pem"}.'
    )


def _checked(name: str, value: Any) -> Any:
    if name not in (*_NAMES, "ssl"):
        raise DeclarationError(
            f"{name!r} is no option of TLS for Redis (broker_use_ssl, or the query of a URL): "
            + hint(f"ssl_{name.removeprefix('ssl_')}", _NAMES, "there are")
        )
    if name == "ssl_cert_reqs":
        return _requirement(value)
    if name in _FLAGS and isinstance(value, str):
        if value.lower() not in _BOOLEANS:
            raise DeclarationError(f"{name} = {value!r}: it takes true or false.")
        return _BOOLEANS[value.lower()]
    return value


def _requirement(value: Any) -> ssl.VerifyMode:
    """What Celery, kombu and redis-py write as CERT_NONE, "none", "CERT_NONE" or None."""
    try:
        if value is None:
            return ssl.CERT_NONE
        if isinstance(value, str):
            return _REQUIREMENTS[value.lower().removeprefix("cert_")]
        return ssl.VerifyMode(value)
    except (KeyError, ValueError) as error:
        raise DeclarationError(f"ssl_cert_reqs = {value!r}: it takes required, optional or none.") from error
