"""What a worker logs of the failures of handlers and tasks."""

import logging

from choreo.printing import lines, one_line

_formatter = logging.Formatter()


class PlainFailures(logging.Filter):
    """
    A filter that changes the records of a logger: see `choreo.printing`.

    Celery logs the traceback of each failure. The text of an error may come from an event, that is from anywhere.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Put escapes into a record about an error. Returns True: every record is logged."""
        if record.levelno < logging.WARNING and not record.exc_info:
            return True
        message = record.getMessage()
        if not message.isprintable():
            record.msg, record.args = one_line(message), ()
        if record.exc_info and not record.exc_text:
            # A formatter uses this text, and does not make one of its own.
            record.exc_text = lines(_formatter.formatException(record.exc_info))
        return True


_PLAIN = PlainFailures()


def install() -> None:
    """Let Celery log failures of tasks in plain text, in this process and its children."""
    logging.getLogger("celery.app.trace").addFilter(_PLAIN)
