"""What starts and stops processes on a developer's machine: the embedded server, the workers, Flower."""

from choreo.local.platform import Platform
from choreo.local.server import EmbeddedServer

__all__ = ["EmbeddedServer", "Platform"]
