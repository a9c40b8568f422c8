"""Kombu's message, unpacked within bounds."""

from typing import Any

from kombu.transport import virtual

from choreo.broker.compression import errors_in


class BoundedMessage(virtual.Message):
    """
    A message as kombu's virtual transports deliver it.

    A body that cannot be unpacked, or unpacks to too much, stays as it came; ``errors`` holds the error.
    """

    #: The queue that it was taken from: see `choreo.broker.incoming.source_of`.
    choreo_queue = ""

    def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
        self.errors = errors_in(payload.get("body"), payload.get("headers"), payload.get("content-encoding"))
        super().__init__(payload, channel=channel, **options)
