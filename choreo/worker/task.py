"""What the tasks of a service have in common."""

from celery import Task
from celery.exceptions import ImproperlyConfigured

#: What would lose events were it otherwise.
_PROMISES = ("acks_late", "reject_on_worker_lost", "acks_on_timeout")


class SafeTask(Task):
    """A task that is acknowledged last, and comes back whatever ends it early."""

    abstract = True
    acks_late = True
    reject_on_worker_lost = True
    # What exceeds its time limit is begun again, and is parked when that happens too often.
    acks_on_timeout = False
    ignore_result = True
    serializer = "json"

    def check(self) -> None:
        """Raises `ImproperlyConfigured` where ``task_annotations`` breaks a promise."""
        for name in _PROMISES:
            said, needed = getattr(self, name), getattr(SafeTask, name)
            if said is not needed:
                raise ImproperlyConfigured(
                    f"task_annotations sets {name} = {said!r} on {self.name}, whose events would be lost with a worker "
                    f"that dies; choreo needs {needed!r}. Name there the tasks that it is meant for, instead of '*'."
                )
