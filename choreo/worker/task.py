"""What the tasks of a service have in common."""

from celery import Task


class SafeTask(Task):
    """A task that is acknowledged last, and comes back whatever ends it early."""

    abstract = True
    acks_late = True
    reject_on_worker_lost = True
    # What exceeds its time limit is begun again, and is parked when that happens too often.
    acks_on_timeout = False
    ignore_result = True
    serializer = "json"
