"""The result backend of a service that has none."""

from typing import Any, NoReturn

import click
from celery.backends.base import DisabledBackend


class NoResults(DisabledBackend):
    """Celery's backend of an app without one. Its error says what takes the place of results."""

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raise `NotImplementedError`, as Celery does. In the command `celery result` it is one line."""
        text = (
            f"{self.app.service_name} keeps no results, because result_backend is not set. A handler has none: it "
            f'announces events. For ordinary tasks, write result_backend = "redis://host:6379/1" in celeryconfig.py.'
        )
        context = click.get_current_context(silent=True)
        if context is not None and context.info_name == "result":
            raise click.ClickException(text)
        raise NotImplementedError(text)

    get_state = get_status = get_result = get_traceback = refuse
    get_task_meta_for = _get_task_meta_for = wait_for = get_many = refuse


def without_backend(backend: Any, app: Any) -> Any:
    """Return Celery's result backend of an app; `NoResults` if it has none."""
    return NoResults(app=app, url=backend.url) if type(backend) is DisabledBackend else backend
