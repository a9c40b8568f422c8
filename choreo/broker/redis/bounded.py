"""Kombu's message, unpacked within bounds."""

import sys
from typing import Any

from kombu.transport import virtual

from choreo.broker.compression import check_size


class BoundedMessage(virtual.Message):
    """
    A message as kombu's virtual transports deliver it.

    A body that cannot be unpacked, or unpacks to too much, stays as it came; ``errors`` holds the error.
    """

    def __init__(self, payload: dict[str, Any], channel: Any = None, **options: Any) -> None:
        compression = (payload.get("headers") or {}).get("compression")
        if compression:
            try:
                check_size(payload.get("body"), compression)
            except Exception:  # a decoder may raise anything; kombu unpacks no message that has errors
                self.errors = [sys.exc_info()]
        super().__init__(payload, channel=channel, **options)
