"""Remote control that stays within the service.

All services of a platform listen on one control exchange, so that one Flower shows the workers of all of them. A
command that names no worker reaches the workers of its own service only: `celery -A handlers.payment control shutdown`
stops payment's workers, and no others.
"""

import logging
import re
from collections.abc import Sequence
from typing import Any

from celery.app.control import Control, Inspect
from celery.utils.functional import maybe_list

from choreo.broker.lines import ensure_connected
from choreo.cached import cached_property
from choreo.worker.logical_clock import LogicalClock
from choreo.worker.mailbox import ServiceMailbox

logger = logging.getLogger(__name__)

#: The remote control command that has a worker look at the pauses at once: see `choreo.worker.panel`.
LOOK = "choreo_pauses"
#: The position of ``limit`` in the arguments of Celery's `broadcast` behind ``destination``.
_POSITION_OF_LIMIT = 4


def nodes_of(service: str) -> str:
    """The regular expression for the node names of a service: ``payment@...``, ``payment.fast@...``."""
    return f"{re.escape(service)}[.@]"


def node_name(service: str, hostname: str) -> str:
    """
    The node name of a worker of this service: ``payment@payment.host``. ``hostname`` is Celery's, from `-n`.

    The service's name is put before both parts. Exporters of metrics read only the host's part: with the same one, the
    workers of all services of a machine would be one to them.
    """
    name, _, host = hostname.partition("@")
    if name == "celery":
        name = service
    elif not re.match(nodes_of(service), hostname):
        name = f"{service}.{name}"
    return f"{name}@{_host_of(service, host)}"


def full_name(node: str) -> str:
    """The whole name of a node that a person may have shortened: ``payment@payment.host`` for ``payment@host``."""
    name, at, host = node.partition("@")
    return f"{name}@{_host_of(name.partition('.')[0], host)}" if at else node


def _host_of(service: str, host: str) -> str:
    return host if host == service or host.startswith(f"{service}.") else f"{service}.{host}"


def wake_workers(app: Any, services: Sequence[str]) -> None:
    """Have the workers of these services look at the pauses at once. Raises nothing: they also look by themselves."""
    try:
        with app.connection_for_write() as connection:
            ensure_connected(connection)
            for service in services:
                app.control.broadcast(LOOK, connection=connection, pattern=nodes_of(service), matcher="pcre")
    except Exception as error:  # the brokers' clients raise dozens of types
        logger.debug("the workers of %s look at the pauses a moment later: %s", ", ".join(services), error)


class ServiceInspect(Inspect):
    """Celery's questions to workers. Answers in no recognisable form are left out: any program can send one."""

    def _prepare(self, reply: Any) -> Any:
        return super()._prepare([answer for answer in reply or () if isinstance(answer, dict)])


class ServiceControl(Control):
    """``app.control`` of a service. It reaches the service's own workers unless a command names others."""

    Mailbox = ServiceMailbox

    def __init__(self, app: Any = None) -> None:
        super().__init__(app)
        self.mailbox.clock = LogicalClock()

    @cached_property
    def inspect(self) -> Any:
        """Celery's, with `ServiceInspect`."""
        return self.app.subclass_with_self(ServiceInspect, reverse="control.inspect")

    def broadcast(
        self, command: str, arguments: Any = None, destination: Any = None, *args: Any, **options: Any
    ) -> Any:
        """
        Send a command to ``destination``, or to the workers that ``pattern`` matches, or to this service's own.

        ``destination`` may have the short names: ``payment@host``, see `full_name`.
        """
        if destination is not None:
            nodes = maybe_list(destination)
            destination = list(dict.fromkeys([*nodes, *map(full_name, nodes)]))
            if len(args) < _POSITION_OF_LIMIT:
                # Each node has one of its two names, and the answers of all are enough.
                options["limit"] = options.get("limit") or len(nodes)
        elif not options.get("pattern"):
            options.update(pattern=nodes_of(self.app.service_name), matcher="pcre")
        return super().broadcast(command, arguments, destination, *args, **options)
