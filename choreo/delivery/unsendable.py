"""Entries of a schedule that can never be sent: they become dead letters, and leave the schedule."""

import logging

from choreo.delivery.notice import notices_of, park
from choreo.delivery.ports import Ports
from choreo.delivery.undeclared import is_handler
from choreo.errors import EnvelopeError, PublishError, UnsendableError
from choreo.events.message import Message
from choreo.events.naming import OWN_TYPES
from choreo.printing import one_line
from choreo.store.schedule import Unreadable

logger = logging.getLogger(__name__)

#: After so many refusals by a broker that takes other messages, a message becomes a dead letter. It is due every 5
#: seconds (`HOLD` of the clock), so that is after about an hour: a queue that is full may be empty again by then.
MOST_REFUSALS = 700


def park_unreadable(ports: Ports, name: str, key: str, entry: Unreadable) -> None:
    """Make a dead letter of an entry that is no message, and remove it from this schedule. Raises `StoreError`."""
    handler = _keeper(ports, name)
    message = Message("", ports.queue_of(handler), entry.text)
    park(ports, handler, message, EnvelopeError(f"the entry {key!a} in the schedule of {name}: {entry.fault}"))
    ports.store.sent(name, [key])


def is_given_up(ports: Ports, name: str, key: str, message: Message, error: PublishError) -> bool:
    """
    Count one more refusal of a message by the broker. True if that was too often, and a dead letter has it now.

    A notice and an alert have no dead letters of their own: they are dropped, with a line in the log. Raises
    `StoreError`.
    """
    count = ports.store.returned(name, f"refused:{key}")
    if count < MOST_REFUSALS:
        return False
    why = f"the broker refused it {count} times: {error}"
    if message.routing_key == ports.queue_of(notices_of(ports.service_name)):
        letter = key.removeprefix("notice:")
        logger.error("the notice of dead letter %s is dropped, and the letter is kept: %s", one_line(letter), why)
    elif message.exchange and message.routing_key in OWN_TYPES:
        logger.error("an alert is dropped, %s %s: %s", message.routing_key, one_line(key), why)
    else:
        # Without its event the letter is replayed as it is: to an exchange, if that is its address.
        park(ports, _keeper(ports, name), message, UnsendableError(why))
    return True


def _keeper(ports: Ports, name: str) -> str:
    """The handler whose schedule it is; the service for the delayed events, which no handler has announced."""
    return name if is_handler(name) else ports.service_name
