"""The base class of a service's own tasks: of its handlers, and of its dead-letter notices."""

from typing import Any

from celery import Task
from celery.exceptions import ImproperlyConfigured

from choreo.store.claims import Claim

#: Attributes of `SafeTask` that must not change, or events are lost.
_PROMISES = ("acks_late", "reject_on_worker_lost", "retry_on_worker_lost", "acks_on_failure", "acks_on_timeout")


class SafeTask(Task):
    """A task that is acked last, and whose message comes back if anything ends the task early."""

    abstract = True
    acks_late = True
    reject_on_worker_lost = True
    # Celery would count such retries by itself, and ack the message after the third.
    retry_on_worker_lost = False
    # The dead letter is recorded. A rejected message would become another one on RabbitMQ.
    acks_on_failure = True
    Request = "choreo.worker.request:SafeRequest"
    # A time limit is a failed attempt. The message comes back, and the next delivery records that.
    acks_on_timeout = False
    ignore_result = True
    serializer = "json"

    def claim_of(self, argument: Any, retries: int) -> Claim | None:
        """The claim of a run with this argument; None if there is none. For the worker's main process."""
        raise NotImplementedError

    def returned_too_often(self, delivery: str) -> int:
        """
        Count that a delivery could not be settled. Returns how often, if that is too often; else 0.

        ``delivery`` is any text that names it. Raises `StoreError`.
        """
        runtime = self.app.runtime
        count: int = runtime.store.returned(self.name, delivery)
        return count if count >= runtime.terms.max_deliveries else 0

    def check(self) -> None:
        """Raises `ImproperlyConfigured` if ``task_annotations`` changes an attribute so that events could be lost."""
        for name in _PROMISES:
            said, needed = getattr(self, name), getattr(SafeTask, name)
            if said is not needed:
                raise ImproperlyConfigured(
                    f"task_annotations sets {name} = {said!r} on {self.name}, whose events would be lost with a worker "
                    f"that dies; choreo needs {needed!r}. Name there the tasks that it is meant for, instead of '*'."
                )
