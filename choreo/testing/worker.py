"""The worker of a stage: makes one delivery, as a worker of the service would."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from choreo.delivery.batch import BatchRun, MemberDelivery, NotAloneError
from choreo.delivery.delivery import Delivery
from choreo.delivery.failure import RetryScheduledError, line_of, trace_of
from choreo.delivery.kinds import delivery_to
from choreo.delivery.listener import NoticeDelivery
from choreo.delivery.notice import park
from choreo.delivery.probe import Probe
from choreo.errors import DeadLetterError, EnvelopeError
from choreo.events.envelope import Envelope
from choreo.events.message import Message
from choreo.service import Service
from choreo.testing.log import Delivered
from choreo.testing.queues import PendingDelivery, argument_of
from choreo.testing.runtime import StageRuntime

logger = logging.getLogger(__name__)


class StageWorker:
    """Makes the deliveries of all services on a stage."""

    def __init__(self, runtimes: Mapping[Service, StageRuntime]) -> None:
        self._services = {app.service_name: (app, runtime) for app, runtime in runtimes.items()}

    def make(self, pending: PendingDelivery, probe: str = "") -> Delivered:
        """
        Make one delivery, and return its outcome. An error of the handler is part of the outcome.

        ``probe`` is the token of the probe that it is; "" if it is none.

        Raises any error that happened while nothing was recorded yet: the delivery must be made again then.
        """
        app, runtime = self._services[pending.handler.partition(".")[0]]
        if pending.event is None:
            return self._tell(app, runtime, pending)
        return self._handle(runtime, pending, pending.event, probe)

    def _handle(self, runtime: StageRuntime, pending: PendingDelivery, event: Envelope, probe: str) -> Delivered:
        at = runtime.now()
        (subscription,) = [known for known in runtime.subscriptions if known.name == pending.handler]
        try:
            delivery = delivery_to(runtime, subscription, event, pending.attempt, token=f"stage-{pending.number}")
        except EnvelopeError as error:
            own = Message.carrying(event, exchange="", routing_key=runtime.queue_of(pending.handler))
            park(runtime, pending.handler, own, error, (event,))
            return _delivered(pending, event, at, f"dead letter: {error}", error)
        try:
            outcome, failure = self._live(Probe(delivery, probe) if probe else delivery)
        except Exception as error:
            if not delivery.settled:
                raise
            outcome, failure = f"dead letter: {line_of(error)}", error
        return _delivered(pending, event, at, outcome, failure)

    def make_all(self, batch: Sequence[PendingDelivery]) -> list[Delivered]:
        """Make the deliveries of one batch. Returns and raises as `make` does, for each."""
        runtime = self._services[batch[0].handler.partition(".")[0]][1]
        at = runtime.now()
        (subscription,) = [known for known in runtime.subscriptions if known.name == batch[0].handler]
        made: dict[PendingDelivery, MemberDelivery] = {}
        parked: dict[PendingDelivery, Delivered] = {}
        for one in batch:
            try:
                token = f"stage-{one.number}"
                delivery: Any = delivery_to(runtime, subscription, _event_of(one), one.attempt, token=token)
            except EnvelopeError:
                parked[one] = self.make(one)
            else:
                made[one] = delivery
        if made:
            run = BatchRun(list(made.values()))
            run.live()
        return [parked[one] if one in parked else self._outcome(one, made[one], run, at) for one in batch]

    def _outcome(self, pending: PendingDelivery, member: MemberDelivery, run: BatchRun, at: datetime) -> Delivered:
        try:
            outcome, failure = run.outcome_of(member), None
        except NotAloneError:
            return self.make(pending)
        except RetryScheduledError as retry:
            outcome, failure = retry.reason, retry.error
        except Exception as error:
            if not member.settled:
                raise
            outcome, failure = f"dead letter: {line_of(error)}", error
        return _delivered(pending, pending.event, at, outcome, failure)

    def _live(self, delivery: Delivery | Probe) -> tuple[str, Exception | None]:
        try:
            return delivery.live(), None
        except RetryScheduledError as retry:
            return retry.reason, retry.error

    def _tell(self, app: Service, runtime: StageRuntime, pending: PendingDelivery) -> Delivered:
        at = runtime.now()
        try:
            letter = runtime.dead_letters.get(str(argument_of(pending.message)))
        except DeadLetterError:
            return _delivered(pending, None, at, "replayed or discarded meanwhile")
        event = letter.envelopes[0] if letter.envelopes else None
        delivery = NoticeDelivery(runtime, app.listener, letter, pending.attempt, token=f"stage-{pending.number}")
        try:
            _, failure = self._live(delivery)
        except Exception as error:
            if not delivery.settled:
                raise
            failure = error
        told = "told of the dead letter"
        return _delivered(pending, event, at, f"{told}, and failed: {line_of(failure)}" if failure else told, failure)


def _delivered(
    pending: PendingDelivery, event: Envelope | None, at: datetime, outcome: str, error: Exception | None = None
) -> Delivered:
    delivered = Delivered(pending.handler, event, pending.attempt, outcome, error, at)
    if error is not None and logger.isEnabledFor(logging.WARNING):
        logger.warning("%s: %s\n%s", delivered, outcome, trace_of(error).rstrip())
    return delivered


def _event_of(pending: PendingDelivery) -> Envelope:
    if pending.event is None:
        raise ValueError(f"{pending} is a notice, which is in no batch")
    return pending.event
