"""The Celery task around a handler in the fast lane."""

from typing import Any

from choreo.broker.incoming import EventText
from choreo.broker.redis.consuming import ConsumingChannel
from choreo.broker.redis.receipt import Receipt
from choreo.cached import cached_property
from choreo.delivery.delivery import Delivery
from choreo.delivery.kinds import kind_for, kind_of
from choreo.delivery.stand_in import StandIn
from choreo.events.envelope import Envelope
from choreo.events.lineage import Lineage
from choreo.fast.channel import commits_of
from choreo.fast.commits import Commits
from choreo.fast.decisions import FastDecisions
from choreo.fast.fused_store import FusedStore
from choreo.fast.rabbit_channel import Place
from choreo.fast.rabbit_decisions import RabbitDecisions
from choreo.fast.tracer import Failed, Trace, tracer_for
from choreo.worker.handler import HandlerTask, lineage_in, unless_special


class FastHandlerTask(HandlerTask):
    """
    A `HandlerTask` with choreo's own strategy, request and tracer in place of Celery's.

    With the fused store, its deliveries decide through a `FastDecisions`.
    """

    abstract = True
    Request = "choreo.fast.request:HandlerRequest"
    Strategy = "choreo.fast.strategy:strategy"

    @property
    def __trace__(self) -> Trace | None:
        """
        The tracer of this task: the short one where a run may use it, else Celery's. See `choreo.fast.tracer`.

        Celery sets it when a worker starts.
        """
        return self._trace

    @__trace__.setter
    def __trace__(self, celerys: Trace | None) -> None:
        self._trace = celerys and tracer_for(self, celerys)
        self.has_short_tracer = self._trace is not celerys

    _trace: Trace | None = None
    #: True if no log, hook or foreign wrapper observes every run, so that the short tracer may run it.
    has_short_tracer = False

    @cached_property
    def _kind(self) -> type[Delivery]:
        return kind_of(self.subscription)

    def run(self, event: str | dict[str, Any]) -> str:
        """Handle one delivery. A `Failed` has been handled before: its error is raised again, for Celery to report."""
        if isinstance(event, Failed):
            raise event.error
        return super().run(event)

    def delivery(self, event: str | dict[str, Any], envelope: Envelope) -> Delivery | StandIn:
        """
        The delivery of this run: the one that was made ahead, if there is one, else a new one.

        Raises `EnvelopeError` if the handler cannot take such an event.
        """
        prepared = getattr(event, "prepared", None) if isinstance(event, EventText) else None
        if isinstance(prepared, Delivery):
            return prepared
        # The turn of an event ends once its commit is recorded, so such a commit is not sent together with others.
        if self.subscription.sequential is not None:
            return super().delivery(event, envelope)
        request = self.request
        place = getattr(request, "choreo_place", None)
        if place is not None:
            redelivered = bool((request.delivery_info or {}).get("redelivered"))
            attempt, lineage = request.retries + 1, lineage_in(request)
            return unless_special(self._placed(envelope, attempt, place, lineage, redelivered=redelivered), request)
        receipt = Receipt.of(request.properties)
        if receipt is None:
            return super().delivery(event, envelope)
        commits = getattr(request, "choreo_commits", None)
        delivery = self.fast_delivery(envelope, request.retries + 1, receipt, commits, lineage_in(request))
        return unless_special(delivery, request)

    def delivery_of(self, channel: Any, taken: Any, event: EventText) -> Delivery:
        """
        The delivery of a message that a channel has taken, before the channel delivers it.

        Raises `EnvelopeError` if the handler cannot take such an event.
        """
        if isinstance(channel, ConsumingChannel):
            receipt, commits = channel.receipt_of(taken), commits_of(channel)
            return self.fast_delivery(event.envelope, 1, receipt, commits, event.lineage)
        place = channel.hooks.place_of(taken.tag)
        return self._placed(event.envelope, 1, place, event.lineage, redelivered=False)

    def _placed(
        self, envelope: Envelope, attempt: int, place: Place, lineage: Lineage, *, redelivered: bool
    ) -> Delivery:
        """The delivery of a message of RabbitMQ that may be decided together with others."""
        runtime = self.runtime
        decisions = RabbitDecisions(runtime, place.group, place.tag, place.acks, envelope, redelivered=redelivered)
        return self._made(envelope, attempt, lineage, redelivered=redelivered, decisions=decisions)

    def fast_delivery(
        self, envelope: Envelope, attempt: int, receipt: Receipt, commits: Commits | None, lineage: Lineage
    ) -> Delivery:
        """
        The delivery of a message that choreo's Redis transport took. ``commits`` sends its commit ahead; None: no.

        Raises `EnvelopeError` if the handler cannot take such an event.
        """
        runtime, redelivered = self.runtime, receipt.redelivered
        store = runtime.store
        if not isinstance(store, FusedStore):
            return self.make_delivery(envelope, attempt, redelivered=redelivered, lineage=lineage)
        apart = self.subscription.reaction.is_async
        decisions = FastDecisions(store, runtime.publisher, receipt, commits, envelope, apart=apart)
        return self._made(envelope, attempt, lineage, redelivered=redelivered, token=receipt.tag, decisions=decisions)

    def _made(self, envelope: Envelope, attempt: int, lineage: Lineage, **options: Any) -> Delivery:
        """As `make_delivery`, which finds out the kind for each event."""
        runtime = self.runtime
        if runtime.signing is not None:
            envelope = runtime.signing.checked(envelope, runtime.queue_of(self.name))
        kind = kind_for(self._kind, envelope)
        return kind(runtime, self.subscription, envelope, attempt, lineage=lineage, **options)
