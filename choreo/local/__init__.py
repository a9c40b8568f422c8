"""Processes on a developer's machine: starts and stops the embedded server, the workers and Flower."""

from choreo.local.platform import Platform
from choreo.local.server import EmbeddedServer

__all__ = ["EmbeddedServer", "Platform"]
