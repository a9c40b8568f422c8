"""
Signatures: proof of who announced an event, and that nobody has changed it since.

An event carries one in the extension attribute `SIGNATURE`, over all that it tells (see `canonical`): it stays valid in
retries, joins and replays. What else a service writes to a single queue, its own, has a `SEAL` in addition, over the
event with all its attributes and the name of that queue: a retry, a part of a join with its key, what is to be undone,
a signal. Both are HMAC-SHA256 with a key that the services share.
"""

import hmac
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from choreo.errors import DeclarationError, EnvelopeError, InvalidEventError, UntrustedError
from choreo.events.envelope import NEW_KEY, READABLE_BY, Envelope
from choreo.events.message import EVENT_TASK, Message, compact, parsed
from choreo.events.metadata import ALERTED
from choreo.events.naming import OWN_TYPES, check_pattern
from choreo.events.patterns import matches
from choreo.events.redaction import REDACTED
from choreo.printing import one_line

logger = logging.getLogger(__name__)

#: The attributes of a signed event, and of one that is sealed for one queue. The value is ``<key>:<64 hex digits>``.
SIGNATURE, SEAL = "choreosignature", "choreoseal"
#: Attributes by which a message tells one handler more than the event does. Without a seal anybody could add them. See
#: `choreo.store.parts` for two of them.
PRIVATE = frozenset({NEW_KEY, "choreojoinkey", "choreoundo"})
#: The attributes of choreo's that an event has from its announcement on.
_OF_EVENT = frozenset({READABLE_BY, REDACTED, ALERTED})
#: The prefix of the types of signals, which are no events: see `choreo.delivery.signals`.
_SIGNALS = "choreo."
#: The fewest characters of a key: a guess would take too long.
SHORTEST = 16
#: The values of ``choreo_signing``, the default first.
MODES = ("require", "accept")

_is_name = re.compile(r"[\w.-]+").fullmatch


@dataclass(frozen=True)
class Signing:
    """
    What a service signs with, and whom it trusts.

        >>> signing = Signing({"2026-11": b"a key of 16 characters"}, is_required=True)
    """

    #: Name → key. The first one signs, all of them verify.
    keys: Mapping[str, bytes]
    #: False: an event without a signature is accepted, and the first one of each type and source is logged.
    is_required: bool = True
    #: Publisher → patterns of the types that it may announce. None: whoever has a key may announce anything.
    publishers: Mapping[str, tuple[str, ...]] | None = None
    #: Publisher and type → True if it may announce this. Only verified events are looked up here.
    _scopes: dict[tuple[str, str], bool] = field(default_factory=dict, init=False, repr=False, compare=False)
    #: The sources and types of which it was logged that they are not signed.
    _unsigned: set[tuple[str, str]] = field(default_factory=set, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Signing | None":
        """What these settings of Celery say; None without a key. Raises `DeclarationError` for a wrong value."""
        keys, mode = settings.get("choreo_signing_keys"), settings.get("choreo_signing")
        publishers = settings.get("choreo_publishers")
        if not keys:
            if mode is not None or publishers is not None:
                name = "choreo_signing" if mode is not None else "choreo_publishers"
                raise DeclarationError(f'{name} needs choreo_signing_keys = {{"2026-11": "..."}}, which is not set.')
            return None
        if mode not in (None, *MODES):
            raise DeclarationError(f'choreo_signing = {mode!r}: it takes "require" or "accept".')
        return cls(_checked_keys(keys), mode != "accept", _checked_publishers(publishers))

    # -- signing ---------------------------------------------------------------------------------------------------

    def signed(self, event: Envelope) -> Envelope:
        """The event with a signature. Raises `InvalidEventError` if its source may not announce it."""
        if not self._may_announce(event):
            raise InvalidEventError(
                f"{event.source} may not announce {event.type}: choreo_publishers does not allow it, so no service "
                f"would handle it. Add the type there, in the configuration of every service."
            )
        return replace(event, extensions={**event.extensions, SIGNATURE: self._made(canonical(event))})

    def sealed(self, message: Message) -> Message:
        """The message with a seal, if it carries an event to a single queue; else as it is."""
        if message.exchange or message.headers.get("task") != EVENT_TASK:
            return message
        try:
            wire = parsed(message.body)[0][0]
            event = Envelope.from_wire(wire)
            wire[SEAL] = self._made(_sealing(event, message.routing_key))
            return replace(message, body=compact([[wire], {}, {}]).encode())
        except (ValueError, LookupError, TypeError, RecursionError):
            return message  # it becomes a dead letter, whether or not it has a seal

    def _made(self, text: bytes) -> str:
        name, key = next(iter(self.keys.items()))
        return f"{name}:{hmac.digest(key, text, 'sha256').hex()}"

    # -- verifying -------------------------------------------------------------------------------------------------

    def checked(self, event: Envelope, queue: str) -> Envelope:
        """
        The event that came from this queue, without its seal.

        Raises `UntrustedError` for one that is not signed by a key of this service, was changed, comes from a publisher
        that may not announce it, or tells this handler something without a seal.
        """
        try:
            return self._checked(event, queue)
        except (ValueError, TypeError, RecursionError) as error:
            if isinstance(error, EnvelopeError):
                raise
            raise UntrustedError(f"{event} cannot be verified: {error}") from error

    def _checked(self, event: Envelope, queue: str) -> Envelope:
        seal = event.extensions.get(SEAL)
        if seal is not None:
            if not self._verifies(seal, _sealing(event, queue)):
                raise UntrustedError(f"the seal of {event} does not fit: {self._why(seal)}")
            others = {name: value for name, value in event.extensions.items() if name != SEAL}
            return replace(event, extensions=others)
        signature = event.extensions.get(SIGNATURE)
        if event.type.startswith(_SIGNALS) or not PRIVATE.isdisjoint(event.extensions):
            return self._unproven(event, "is for this handler alone, and has no seal")
        if signature is None:
            return self._unproven(event, "is not signed")
        if not self._verifies(signature, canonical(event)):
            raise UntrustedError(f"the signature of {event} does not fit: {self._why(signature)}")
        if not self._may_announce(event):
            raise UntrustedError(f"{event.source} may not announce {event.type}, as choreo_publishers says")
        return event

    def _unproven(self, event: Envelope, what: str) -> Envelope:
        if self.is_required:
            raise UntrustedError(
                f"{event} from {event.source!r} {what}. If it is right, replay it; if its publisher is to be trusted, "
                f"give it a key (choreo_signing_keys)"
            )
        if (event.source, event.type) not in self._unsigned and len(self._unsigned) < 1000:
            self._unsigned.add((event.source, event.type))
            logger.warning(
                "%s from %s %s, and is accepted (choreo_signing = 'accept'). Logged once per type and source.",
                event,
                one_line(event.source),
                what,
            )
        return event

    def _verifies(self, signature: object, text: bytes) -> bool:
        name, _, digest = str(signature).rpartition(":")
        key = self.keys.get(name)
        return key is not None and hmac.compare_digest(
            hmac.digest(key, text, "sha256").hex().encode(), digest.encode(errors="replace")
        )

    def _why(self, signature: object) -> str:
        name = str(signature).rpartition(":")[0]
        if name in self.keys:
            return "somebody without the key has made it or changed it"
        return f"there is no key {one_line(name)!r} in choreo_signing_keys"

    def _may_announce(self, event: Envelope) -> bool:
        # A service that announces nothing has alerts all the same: without them its handlers could not be paused.
        if self.publishers is None or event.type in OWN_TYPES:
            return True
        asked = event.source, event.type
        known = self._scopes.get(asked)
        if known is None:
            patterns = self.publishers.get(event.source)
            known = patterns is not None and any(matches(pattern, event.type) for pattern in patterns)
            self._scopes[asked] = known
        return known


def canonical(event: Envelope) -> bytes:
    """
    All that an event tells, as bytes, the same wherever it was read: what its signature is over.

    A JSON array without spaces, names of objects sorted, everything but ASCII escaped: a word for the version of this
    form, id, type, source, subject, time (ISO 8601), correlation id, causation id, version, data, and the extension
    attributes that do not begin with "choreo", with `_OF_EVENT`. Hops are left out: a replay counts them anew.
    """
    others = event.extensions.items()
    given = {name: value for name, value in others if not name.startswith("choreo") or name in _OF_EVENT}
    return _dumps(["choreo-event-1", *_told(event), given])


def _sealing(event: Envelope, queue: str) -> bytes:
    """What the seal is over: the event with all its attributes but the seal, and the queue."""
    given = {name: value for name, value in event.extensions.items() if name != SEAL}
    return _dumps(["choreo-seal-1", queue, *_told(event), given, event.replay])


def _told(event: Envelope) -> list[Any]:
    return [
        event.id,
        event.type,
        event.source,
        event.subject,
        event.time.isoformat(),
        event.correlation_id,
        event.causation_id,
        event.version,
        event.data,
    ]


def _dumps(value: Any) -> bytes:
    return _encode(value).encode()


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _checked_keys(keys: object) -> dict[str, bytes]:
    if not isinstance(keys, Mapping):
        raise DeclarationError(
            f"choreo_signing_keys is {type(keys).__name__}: it takes names with keys, the one that signs first, like "
            f'{{"2026-11": "..."}}.'
        )
    made = {}
    for name, key in keys.items():
        if not isinstance(name, str) or not _is_name(name):
            raise DeclarationError(f"choreo_signing_keys: {name!r} is no name of a key. Write it like 2026-11.")
        secret = key.encode() if isinstance(key, str) else key
        if not isinstance(secret, bytes) or len(secret) < SHORTEST:
            raise DeclarationError(
                f"choreo_signing_keys: the key {name!r} is no text of {SHORTEST} characters or more. Make one: "
                f"python -c 'import secrets; print(secrets.token_hex(32))'."
            )
        made[name] = secret
    return made


def _checked_publishers(publishers: object) -> dict[str, tuple[str, ...]] | None:
    if publishers is None:
        return None
    if isinstance(publishers, (list, tuple, set, frozenset)):
        publishers = dict.fromkeys(publishers, "#")
    if not isinstance(publishers, Mapping):
        raise DeclarationError(
            f"choreo_publishers = {publishers!r}: it takes the names of services, or each with the types that it may "
            f'announce, like {{"payment": ["payment.*"]}}.'
        )
    made = {}
    for name, types in publishers.items():
        listed = (types,) if isinstance(types, str) else types
        if not isinstance(name, str) or not isinstance(listed, (list, tuple, set, frozenset)):
            raise DeclarationError(f'choreo_publishers: {name!r}: {types!r} are no types. Write ["payment.*"].')
        for pattern in listed:
            check_pattern(pattern)
        made[name] = tuple(listed)
    return made
