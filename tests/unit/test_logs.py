"""Logs as JSON, and the run in each record."""

import json
import logging
import logging.config
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.app.log import Logging
from celery.app.trace import LOG_SUCCESS
from celery.worker.strategy import logger as strategy_logger

from choreo import DeclarationError, Service
from choreo.logs import RUN_FIELDS, JsonFormatter, RunFilter
from choreo.worker.logs import ServiceLogging, ToldOnce, told
from tests.unit.events import OrderPlaced
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice", total_cents=500)


def record(message: str = "hello", level: int = logging.INFO, error: BaseException | None = None, **extra: Any):
    info = (type(error), error, error.__traceback__) if error else None
    return logging.getLogger("shop").makeRecord("shop", level, "x.py", 1, message, (), info, extra=extra)


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    text = JsonFormatter().format(made)
    assert "\n" not in text
    fields: dict[str, Any] = json.loads(text)
    return fields


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:
        return caught


def test_a_record_is_one_object_on_one_line():
    made = record("two\nlines", logging.WARNING)
    made.created = 0.25

    fields = as_json(made)

    assert fields == {
        "time": "1970-01-01T00:00:00.250+00:00",
        "level": "WARNING",
        "logger": "shop",
        "message": "two\nlines",
        "process": made.process,
    }


def test_an_exception_is_fields():
    fields = as_json(record(error=raised(ValueError("no such card"))))

    assert (fields["error"], fields["error_type"]) == ("ValueError: no such card", "ValueError")
    assert fields["traceback"].startswith("Traceback (most recent call last):\n")


def test_what_a_program_adds_is_kept_and_cannot_break_the_line():
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError

    loop: list[Any] = []
    loop.append(loop)

    assert as_json(record(tenant="acme", path=Path("x")))["tenant"] == "acme"
    for odd in (Odd(), loop, {(1, 2): 3}, float("nan"), "\ud800"):
        fields = as_json(record(tenant="acme", odd=odd))
        assert (fields["tenant"], fields["message"]) == ("acme", "hello")
        assert "odd" in fields


def test_the_arguments_of_a_task_are_not_shown():
    about = {"id": "t-1", "name": "payment.clean", "args": "('SESAME',)", "kwargs": "{}"}

    fields = as_json(record(data=about))

    assert (fields["task"], fields["task_id"]) == ("payment.clean", "t-1")
    assert "SESAME" not in str(fields)


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Path]:
    """The file of a handler that logging.config has made for the logger "shop"."""
    place = tmp_path / "log"
    logger = logging.getLogger("shop")
    before = logger.handlers[:], logger.level
    yield place
    for handler in logger.handlers:
        handler.close()
    logger.handlers, logger.level = before[0], before[1]


def configured(place: Path, **formatter: Any) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"run": {"()": "choreo.logs.RunFilter"}},
            "formatters": {"own": formatter},
            "handlers": {
                "file": {
                    "class": "logging.FileHandler",
                    "filename": str(place),
                    "formatter": "own",
                    "filters": ["run"],
                }
            },
            "loggers": {"shop": {"level": "INFO", "handlers": ["file"]}},
        }
    )


def test_a_handlers_own_lines_have_the_run_in_the_format_that_a_program_chose(lines: Path):
    configured(lines, format="%(levelname)s %(handler)s %(subject)s %(story)s: %(message)s")
    run_a_handler_that_logs()

    assert lines.read_text().splitlines() == [
        "INFO - - -: before",
        "INFO payment.charge ORD-1 story-1: charging",
        "INFO payment.charge MINE story-1: charged",
    ]


def test_a_handlers_own_lines_have_the_run_in_json(lines: Path):
    configured(lines, **{"()": "choreo.logs.JsonFormatter"})
    run_a_handler_that_logs()

    before, charging, charged = map(json.loads, lines.read_text().splitlines())
    assert before.keys().isdisjoint(RUN_FIELDS)
    assert [charging[name] for name in RUN_FIELDS] == [
        *("payment", "payment.charge", "order.placed", "ORD-1", "e-1", "story-1"),
        1,
    ]
    assert charged["subject"] == "MINE"


def run_a_handler_that_logs() -> None:
    app = service("payment")
    logger = logging.getLogger("shop")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        logger.info("charging")
        logger.info("charged", extra={"subject": "MINE"})

    logger.info("before")
    Stage(app).deliver(ORDER, id="e-1")


def test_the_configuration_of_the_page_works(tmp_path: Path):
    page = (Path(__file__).parents[2] / "docs" / "logging.md").read_text()
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "dictConfig" in code]
    code = f'{block}\nlogging.getLogger("shop").info("hello")'

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert done.stderr == "INFO - - -: hello\n"
    assert json.loads((tmp_path / "shop.log").read_text())["message"] == "hello"


def test_the_filter_costs_nothing_outside_of_a_run_and_drops_nothing():
    made = record()

    assert RunFilter().filter(made) is True
    assert (made.handler, made.story) == ("-", "-")
    assert as_json(made).keys().isdisjoint(RUN_FIELDS)


# -- the worker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "kind"), [("json", JsonFormatter), ("text", logging.Formatter), (None, None)])
def test_the_setting_chooses_the_format_of_all_that_a_worker_logs(setting: Any, kind: Any, tmp_path: Path):
    app = Service("payment", config={"choreo_log_format": setting, "broker_url": "memory://"}, set_as_current=False)
    logger = logging.Logger("some")

    assert isinstance(app.log, ServiceLogging)
    app.log.setup_handlers(logger, str(tmp_path / "log"), "%(message)s", colorize=False)

    (handler,) = logger.handlers
    handler.close()
    assert isinstance(handler.formatter, JsonFormatter) is (kind is JsonFormatter)


def test_a_logger_that_a_program_has_set_up_keeps_its_format():
    app = Service("payment", config={"choreo_log_format": "json", "broker_url": "memory://"}, set_as_current=False)
    logger, own = logging.Logger("some"), logging.StreamHandler()
    logger.addHandler(own)

    app.log.setup_handlers(logger, None, "%(message)s", colorize=False)

    assert logger.handlers == [own]
    assert own.formatter is None


def test_another_format_is_refused():
    app = Service("payment", config={"choreo_log_format": "JSON", "broker_url": "memory://"}, set_as_current=False)

    with pytest.raises(DeclarationError, match=r"""choreo_log_format = 'JSON': it takes "text" or "json"."""):
        app.conf.get("broker_url")


def test_celerys_setup_of_logs_is_still_the_one_that_choreo_extends():
    assert Celery.log_cls == "celery.app.log:Logging"
    assert issubclass(ServiceLogging, Logging)


@pytest.fixture
def once() -> ToldOnce:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None:
        """Nothing."""

    @app.task(name="payment.clean")
    def clean() -> None:
        """Nothing."""

    told("")
    made = ToldOnce()
    made.tasks = app.tasks
    return made


def celerys(name: str, level: int = logging.INFO, task_id: str = "t-1") -> logging.LogRecord:
    context = {"id": task_id, "name": name, "args": "", "kwargs": "", "return_value": "done", "runtime": 0.1}
    made = strategy_logger.makeRecord(strategy_logger.name, level, "x.py", 1, LOG_SUCCESS, (context,), None)
    made.data = context
    return made


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, False), (logging.DEBUG, True)])
def test_celerys_lines_about_a_handler_are_for_debug(
    once: ToldOnce, level: int, shown: bool, caplog: pytest.LogCaptureFixture
):
    made = celerys("payment.charge")

    with caplog.at_level(level, strategy_logger.name):
        assert once.filter(made) is shown

    assert made.levelname == "DEBUG"


def test_celerys_lines_about_other_tasks_stay(once: ToldOnce):
    made = celerys("payment.clean")

    assert once.filter(made)
    assert made.levelname == "INFO"
    assert once.filter(record()), "and so do other lines"


def test_a_failure_that_choreo_has_told_is_not_told_again(once: ToldOnce):
    told("t-2")

    assert not once.filter(celerys("payment.charge", logging.ERROR, "t-2"))
    assert once.filter(celerys("payment.charge", logging.ERROR, "t-1")), "nobody has told this one"
    assert once.filter(celerys("payment.clean", logging.ERROR, "t-2")), "an ordinary task"
