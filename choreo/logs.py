"""
Logs as JSON, and the run in each record. For `logging.config`, or ``choreo_log_format = "json"``: see docs/logging.md.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from choreo.declare.context import current
from choreo.delivery.failure import line_of, shown_trace
from choreo.masking import without_secrets
from choreo.printing import lines

#: The fields of a record that tell in which run it was logged.
RUN_FIELDS = ("service", "handler", "type", "subject", "event_id", "story", "attempt")
#: Stands in a record that was logged outside of a run.
NONE = "-"

#: The attributes of a record that the formatter does not copy. ``data`` is Celery's, with the arguments of a task.
_KNOWN = frozenset([*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "data", "task_id", "task_name"])
#: The end of a line about a run, whose facts are fields in JSON.
_FACTS = re.compile(r" \[[^\[\]]*story [^\[\]]*\]$")

_encode = json.JSONEncoder(default=str, allow_nan=False).encode


class RunFilter(logging.Filter):
    """
    Adds `RUN_FIELDS` to each record: those of the handler that runs in this thread, `NONE` outside of a handler.

    Add it to a logging handler, whose format can then name ``%(handler)s``. A field that the record has already is
    kept. In a thread that a handler has started there is no run, unless the thread runs in a copy of its context.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns True: every record is logged."""
        fields = run_fields() or dict.fromkeys(RUN_FIELDS, NONE)
        for name, value in fields.items():
            vars(record).setdefault(name, value)
        return True


class JsonFormatter(logging.Formatter):
    """
    Each record as one JSON object on one line.

    It has ``time`` (UTC), ``level``, ``logger``, ``message`` and ``process``; `RUN_FIELDS` if the record was logged in
    a run, and the outcome if choreo logs it; ``task`` in an ordinary task, and ``task_id`` in both; and all that a
    program has passed as ``extra``. An exception is in ``error`` (one line), ``error_type`` and ``traceback``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = self._head(record) | _task(record) | run_fields() | _extra(record) | _exception(record)
        if "handler" in line:
            line.pop("task", None)  # its name is the handler's
        if record.stack_info:
            line["stack"] = lines(record.stack_info)
        try:
            return _encode(line)
        except Exception:  # a program can pass anything as `extra`
            return json.dumps({name: value if _is_plain(value) else _text(value) for name, value in line.items()})

    def _head(self, record: logging.LogRecord) -> dict[str, Any]:
        return {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _FACTS.sub("", record.getMessage()) if hasattr(record, "outcome") else record.getMessage(),
            "process": record.process,
        }


def run_fields() -> dict[str, Any]:
    """`RUN_FIELDS` of the handler that runs in this thread; empty outside of a handler."""
    context = current()
    if context is None:
        return {}
    event = context.envelope
    return {
        "service": context.service,
        "handler": context.handler,
        "type": event.type,
        "subject": context.subject,
        "event_id": event.id,
        "story": event.correlation_id,
        "attempt": context.attempt,
    }


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    own = {name: value for name, value in vars(record).items() if name not in _KNOWN}
    return {name: value for name, value in own.items() if value != NONE or name not in RUN_FIELDS}


def _task(record: logging.LogRecord) -> dict[str, Any]:
    """The ordinary task that runs, or that Celery's line is about."""
    about = getattr(record, "data", None)
    if isinstance(about, dict) and "name" in about and "id" in about:
        return {"task": about["name"], "task_id": about["id"]}
    celery = sys.modules.get("celery._state")  # this file does not need Celery
    task = celery.get_current_task() if celery else None
    return {"task": task.name, "task_id": task.request.id} if task else {}


def _exception(record: logging.LogRecord) -> dict[str, Any]:
    error = record.exc_info[1] if record.exc_info else None
    if error is None:
        return {"traceback": record.exc_text} if record.exc_text else {}
    fields = {"error": line_of(error), "error_type": type(error).__name__}
    if hasattr(record, "letter") and "Traceback" not in (record.exc_text or ""):
        return fields  # the traceback is in the dead letter
    return fields | {"traceback": lines(without_secrets(record.exc_text)) if record.exc_text else shown_trace(error)}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int) or value is None


def _text(value: Any) -> str:
    try:
        return str(value)
    except Exception as fault:  # it is a program's own object
        return f"<its text raised {type(fault).__name__}>"
