"""Remote control that stays within the service.

All services of a platform listen on one control exchange, so that one Flower shows the workers of all of them. A
command that names no worker reaches the workers of its own service only: `celery -A handlers.payment control shutdown`
stops payment's workers, and no others.
"""

import re
from typing import Any

from celery.app.control import Control


def nodes_of(service: str) -> str:
    """The regular expression for the node names of a service: ``payment@host``, ``payment.fast@host``."""
    return f"{re.escape(service)}[.@]"


def node_name(service: str, hostname: str) -> str:
    """The node name of a worker of this service. ``hostname`` is Celery's, from `-n`: the service's name is put in."""
    name, _, host = hostname.partition("@")
    if name == "celery":
        return f"{service}@{host}"
    return hostname if re.match(nodes_of(service), hostname) else f"{service}.{name}@{host}"


class ServiceControl(Control):
    """``app.control`` of a service. It reaches the service's own workers unless a command names others."""

    def broadcast(
        self, command: str, arguments: Any = None, destination: Any = None, *args: Any, **options: Any
    ) -> Any:
        """Send a command to ``destination``, or to the workers that ``pattern`` matches, or to this service's own."""
        if destination is None and not options.get("pattern"):
            options.update(pattern=nodes_of(self.app.service_name), matcher="pcre")
        return super().broadcast(command, arguments, destination, *args, **options)
