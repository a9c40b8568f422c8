"""Ids derived from names: the same name gives the same id, on every machine and at any time."""

from hashlib import sha1
from uuid import NAMESPACE_OID

_NAMESPACE = NAMESPACE_OID.bytes


def named_id(name: str) -> str:
    """
    Return ``str(uuid.uuid5(uuid.NAMESPACE_OID, name))``, computed in a quarter of the time.

        >>> named_id("e-1/payment.charge_customer")
        '61e81f80-b280-5c42-ac97-d3c403bf4d4b'
    """
    digest = bytearray(sha1(_NAMESPACE + name.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50  # version 5
    digest[8] = digest[8] & 0x3F | 0x80  # the variant of RFC 4122
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def task_id(event_id: str, handler: str) -> str:
    """The Celery task id of one handler's run of one event. It is the same through all retries."""
    return named_id(f"{event_id}/{handler}")
