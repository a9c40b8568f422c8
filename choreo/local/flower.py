"""
Flower for one machine: `python -m choreo.local.flower -A shop.payment flower`, in place of `celery ...`.

It has no password, and a browser on this machine may open any page. A page of a foreign site can give a name of its own
the address 127.0.0.1 (DNS rebinding), and would then read Flower. So it answers only to the names of this machine.
"""

from typing import Any

from celery.__main__ import main as celery
from flower import command
from flower.app import Flower
from tornado.web import RequestHandler

#: The values of the header Host, without the port, to which Flower answers.
HOSTS = ("127.0.0.1", "localhost", "[::1]")


class Refusal(RequestHandler):
    """The answer to a request for any other host."""

    def prepare(self) -> None:
        """Answer with the status 403 and the reason."""
        self.set_status(403)
        self.set_header("Content-Type", "text/plain")
        self.finish(f"This Flower answers to {', '.join(HOSTS)} only.\n")


class LocalFlower(Flower):
    """Flower that refuses requests for foreign hosts."""

    def find_handler(self, request: Any, **options: Any) -> Any:
        """Tornado's: return the handler of a request."""
        if request.host_name not in HOSTS:
            return self.get_handler_delegate(request, Refusal)
        return super().find_handler(request, **options)


if __name__ == "__main__":
    command.Flower = LocalFlower
    celery()
