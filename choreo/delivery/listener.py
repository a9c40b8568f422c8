"""The dead-letter handler of a service, and the delivery of a notice to it."""

import logging
from collections.abc import Callable
from typing import Any

from choreo.declare.context import Context
from choreo.declare.reaction import Announcing, Reaction, awaited, describe, is_async, returned
from choreo.declare.retry import Retry
from choreo.declare.subscription import Subscription
from choreo.delivery.alert import story_of
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.delivery.delivery import DONE, Delivery, Parts
from choreo.delivery.loop import deepest
from choreo.delivery.notice import notice, notices_of
from choreo.delivery.ports import Ports
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.store.claims import Claim, ClaimResult, Settlement, Verdict

logger = logging.getLogger(__name__)

#: The function declared with `@app.dead_letter`. Callback: gets each dead letter of the service, and returns the events
#: to announce, as a handler does.
Listener = Callable[[DeadLetter], Any]

#: When a dead-letter handler that raised is called again.
RETRY = Retry()


def no_listener(letter: DeadLetter) -> None:
    """The listener of a service that declares none. Each dead letter is logged in any case."""


class NoticeDelivery(Delivery):
    """
    One notice, delivered to one worker: it calls the listener with the dead letter.

    The letter stays in the store. The listener is called until it succeeds, as often as `RETRY` says. The events that
    it announces leave when it succeeds; their cause is the event of the letter (of a join, the part that was announced
    last). If the letter has no readable event,
    they begin a story whose id is that of the letter.
    """

    #: The events that tell of a loop leave. A loop through dead letters ends all the same.
    loop_margin = 2

    def __init__(self, ports: Ports, listener: Listener, letter: DeadLetter, attempt: int = 1, **options: Any) -> None:
        self._listener, self._dead_letter = listener, letter
        name = notices_of(ports.service_name)
        reaction = Reaction(listener, (), None)
        subscription = Subscription(ports.service_name, name, patterns=(), reaction=reaction, retry=RETRY)
        if listener is no_listener:
            self.success_level = logging.DEBUG
        super().__init__(ports, subscription, story_of(letter), attempt, **options)

    def __str__(self) -> str:
        return f"{self.subscription.name}({self._dead_letter.id})"

    def live(self) -> str:
        """Call the listener, unless it was called before. Returns and raises as `Delivery.live` does."""
        outcome = super().live()
        return "told before" if outcome == DONE else outcome

    def make_claim(self) -> Claim:
        """The claim of this delivery on its notice."""
        return self.claim_on(f"notice:{self._dead_letter.id}")

    def begin(self) -> ClaimResult:
        """Claim the notice. DONE, too, if the listener has ended its worker too often. Raises `StoreError`."""
        result = super().begin()
        if result.verdict is not Verdict.POISON:
            return result
        what = describe(self._listener)
        logger.error("%s ended its worker too often: it is not called again with %s", what, self._dead_letter.id)
        self._commit(Settlement())
        return ClaimResult(Verdict.DONE)

    def context(self, parts: Parts) -> Context:  # noqa: ARG002
        """The context of the listener: its events inherit the metadata of all events of the letter."""
        letter = self._dead_letter
        events = letter.envelopes or (self.envelope,)
        return self._context(deepest(self.envelope, events), about=letter.subject, events=events)

    def react(self, parts: Parts, context: Context) -> Announcing:  # noqa: ARG002
        """Call the listener. Returns the events to announce, or a coroutine; raises what the listener raises."""
        if is_async(self._listener):
            return self._await_call(context)
        with context.active():
            for event in returned(self._listener(self._dead_letter), self._listener):
                context.announce(event)
        return context.leaving

    async def _await_call(self, context: Context) -> list[Envelope]:
        with context.active():
            for event in await awaited(self._listener(self._dead_letter), self._listener):
                context.announce(event)
        return context.leaving

    def own_message(self, envelope: Envelope, retries: int = 0) -> Message:  # noqa: ARG002
        """The notice once more."""
        return notice(self._dead_letter, self.ports, retries)

    def make_dead_letter(self, parts: Parts, reason: Reason, error: str) -> str:  # noqa: ARG002
        """Give the notice up: the dead letter stays. Returns the outcome in words."""
        logger.error("%s: %s; the dead letter stays", self, error)
        return self._commit(Settlement()) or f"given up: {error}"

    def _commit_letter(self, letter: DeadLetter, error: Exception | None = None, *, done: bool = True) -> str:  # noqa: ARG002
        # Celery logs the error. A dead letter about a dead letter would help nobody.
        return self._commit(Settlement())
