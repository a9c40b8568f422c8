"""What a worker logs, beside choreo's own lines: in which format, and what of Celery's."""

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from celery.app.log import Logging

from choreo.logs import JsonFormatter
from choreo.masking import without_secrets
from choreo.printing import lines, one_line
from choreo.worker.task import SafeTask

_formatter = logging.Formatter()

#: The task id of a failure that choreo has logged in this thread. Celery logs it next.
_told: ContextVar[str] = ContextVar("choreo_told", default="")


class PlainFailures(logging.Filter):
    """
    A filter that changes the records of a logger: see `choreo.printing` and `without_secrets`.

    Celery logs the traceback of each failure. The text of an error may come from an event, that is from anywhere.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Put escapes into a record about an error. Returns True: every record is logged."""
        if record.levelno < logging.WARNING and not record.exc_info:
            return True
        message = without_secrets(record.getMessage())
        if not message.isprintable() or message != record.getMessage():
            record.msg, record.args = one_line(message), ()
        if record.exc_info and not record.exc_text:
            # A formatter uses this text, and does not make one of its own.
            record.exc_text = lines(without_secrets(_formatter.formatException(record.exc_info)))
        return True


class ToldOnce(logging.Filter):
    """
    A filter for Celery's lines about handlers, whose runs choreo logs itself: see `choreo.delivery.run_log`.

    "received" and "succeeded" become DEBUG. A failure that choreo has logged is dropped. Other tasks keep their lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tasks: Mapping[str, Any] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """True if the record is logged."""
        about = getattr(record, "data", None)
        if not isinstance(about, dict) or not isinstance(self.tasks.get(str(about.get("name"))), SafeTask):
            return True
        if record.levelno != logging.INFO:
            is_told = about.get("id") == _told.get()
            _told.set("")  # the next attempt has the same id
            return not is_told
        record.levelno, record.levelname = logging.DEBUG, logging.getLevelName(logging.DEBUG)
        return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)


class ServiceLogging(Logging):
    """Celery's setup of the log, with ``choreo_log_format``."""

    def setup_handlers(self, logger: Any, *args: Any, **options: Any) -> Any:
        """Give a logger its handler, unless it has one already, which is left as it is."""
        before = list(logger.handlers)
        super().setup_handlers(logger, *args, **options)
        if is_json(self.app):
            for handler in logger.handlers:
                if handler not in before:
                    handler.setFormatter(JsonFormatter())
        return logger


def is_json(app: Any) -> bool:
    """True if the worker of this app logs JSON."""
    return bool(app.conf.get("choreo_log_format") == "json")


def told(task_id: str) -> None:
    """Note that choreo has logged the failure of this task, which Celery is going to log in this thread as well."""
    _told.set(task_id)


_PLAIN, _ONCE = PlainFailures(), ToldOnce()


def install(app: Any) -> None:
    """Let Celery log no run of a handler twice, and failures of tasks in plain text: here and in child processes."""
    _ONCE.tasks = app.tasks
    for name in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).addFilter(_ONCE)
    logging.getLogger("celery.app.trace").addFilter(_PLAIN)
