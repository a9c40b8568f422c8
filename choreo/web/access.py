"""Who may ask for a page: the name of the server in the request, a password, and the page that a form is from."""

import hmac
import ipaddress
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

#: The names of this machine for itself.
LOOPBACK = ("127.0.0.1", "localhost", "::1")

#: The headers of every answer. A page loads from its own server only, runs no script and no style that is written in
#: the page, and is shown in no frame.
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # A form's Origin is left out by "no-referrer".
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Access:
    """
    Who may ask a server.

    A page of a foreign site can give a name of its own the address of this server (DNS rebinding), and would then read
    its pages. So a server answers to its own names only.
    """

    #: The names under which the server answers.
    names: Collection[str] = LOOPBACK
    #: True if it also answers to every address: a foreign site has a name.
    is_any_address: bool = False
    #: True if it answers to every name: something else keeps foreign sites out.
    is_any_name: bool = False
    #: "": none is asked for.
    password: str = ""

    def knows(self, name: str) -> bool:
        """True if the server answers to this name, which is that of the header Host, without the port."""
        plain = name.strip("[]").lower().rstrip(".")
        return self.is_any_name or plain in self.names or (self.is_any_address and is_address(plain))

    def lets_in(self, authorization: str) -> bool:
        """True if this header Authorization has the password, under any user name; or none is asked for."""
        if not self.password:
            return True
        _, given = login(authorization)
        return hmac.compare_digest(given.encode(), self.password.encode())


def login(authorization: str) -> tuple[str, str]:
    """The user and the password in a header Authorization of the kind Basic; two empty texts if it has none."""
    kind, _, told = authorization.partition(" ")
    try:
        user, _, password = b64decode(told, validate=True).decode().partition(":")
    except (NotBase64, ValueError):
        return "", ""
    return (user, password) if kind.lower() == "basic" else ("", "")


def is_address(name: str) -> bool:
    """True for an address of IP, as against a name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """True if only this machine reaches a server that listens here."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_own_form(headers: Mapping[str, str], host: str) -> bool:
    """True if a request with these headers comes from a page of this server, as far as the browser tells."""
    if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == host
