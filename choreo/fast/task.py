"""The Celery task around a handler in the fast lane."""

from typing import Any

from choreo.broker.incoming import EventText
from choreo.broker.redis.receipt import Receipt
from choreo.delivery.delivery import Delivery
from choreo.delivery.kinds import delivery_to
from choreo.delivery.revocation import Revocation
from choreo.events.envelope import Envelope
from choreo.events.lineage import Lineage
from choreo.fast.commits import Commits
from choreo.fast.decisions import FastDecisions
from choreo.fast.fused_store import FusedStore
from choreo.fast.tracer import Failed, Trace, tracer_for
from choreo.worker.handler import HandlerTask, lineage_in, unless_revoked


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

    def run(self, event: str | dict[str, Any]) -> str:
        """Handle one delivery. A `Failed` has been handled before: its error is raised again, for Celery to report."""
        if isinstance(event, Failed):
            raise event.error
        return super().run(event)

    def delivery(self, event: str | dict[str, Any], envelope: Envelope) -> Delivery | Revocation:
        """
        The delivery of this run: the one that was made ahead, if there is one, else a new one.

        Raises `EnvelopeError` if the handler cannot take such an event.
        """
        prepared = getattr(event, "prepared", None) if isinstance(event, EventText) else None
        if isinstance(prepared, Delivery):
            return prepared
        request = self.request
        receipt = Receipt.of(request.properties)
        if receipt is None:
            return super().delivery(event, envelope)
        commits = getattr(request, "choreo_commits", None)
        delivery = self.fast_delivery(envelope, request.retries + 1, receipt, commits, lineage_in(request))
        return unless_revoked(delivery, request)

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
        decisions = FastDecisions(store, runtime.publisher, receipt, commits, envelope)
        # Not by `make_delivery`: one call less at each event.
        return delivery_to(
            runtime,
            self.subscription,
            envelope,
            attempt,
            redelivered=redelivered,
            token=receipt.tag,
            decisions=decisions,
            lineage=lineage,
        )
