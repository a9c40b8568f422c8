"""Which Celery task announces an event."""

from celery._state import _task_stack

from choreo.events.lineage import NO_LINEAGE, Lineage


def lineage_here() -> Lineage:
    """The lineage of an event that this thread announces: the Celery task that runs in it is the parent."""
    for task in reversed(_task_stack.stack):
        request = task.request_stack.top
        # A task that was called as a function has no id; the task that called it has one.
        own_id = request.id if request is not None else None
        if own_id:
            return Lineage(request.root_id or own_id, own_id)
    return NO_LINEAGE
