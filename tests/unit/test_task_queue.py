"""A call of an ordinary task reaches Celery as it came, or is set aside, where Celery would drop it or die of it."""

import json
import pickle
from typing import Any

import pytest
from kombu.serialization import prepare_accept_content

from choreo.broker.task_queue import TaskQueue
from choreo.errors import EnvelopeError
from choreo.events.message import JSON
from tests.unit.test_queue import FLAVOURS, Channel

HEADERS = {"task": "payment.plain", "id": "t-1", "retries": 0, "eta": None, "timelimit": [None, None]}
CALL: Any = [[1], {"a": 2}, {"callbacks": None}]
PICKLE = "application/x-python-serialize"


def prepare(
    flavour: str, *accept: str, body: bytes = json.dumps(CALL).encode(), content_type: Any = JSON, **headers: Any
) -> None:
    tasks = {"payment.plain"}
    queue = TaskQueue("t", handler="payment", tasks=lambda: tasks, accept=lambda: prepare_accept_content(accept))
    encoding = "binary" if content_type == PICKLE else "utf-8"
    queue.prepare(FLAVOURS[flavour](Channel(), body, HEADERS | headers, content_type, encoding))


@pytest.mark.parametrize("flavour", FLAVOURS)
class TestTaskQueue:
    def test_a_call_is_handed_on_in_every_content_type_that_the_service_accepts(self, flavour: str) -> None:
        prepare(flavour, "json")
        prepare(flavour, "json", stamped_headers=["order"], stamps={"order": ["1"]})
        prepare(flavour, "json", "pickle", body=pickle.dumps(CALL), content_type=PICKLE)
        prepare(flavour, "pickle", body=pickle.dumps(((1,), {}, None)), content_type=PICKLE)

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            (PICKLE, pickle.dumps(CALL)),
            ("application/data", b"x"),
            ("application/x-nope", b"x"),
            (None, json.dumps(CALL).encode()),
            (5, b"x"),
        ],
    )
    def test_a_content_type_that_the_service_does_not_accept_is_set_aside(
        self, flavour: str, content_type: Any, body: bytes
    ) -> None:
        with pytest.raises(EnvelopeError, match="is none that the service takes"):
            prepare(flavour, "json", body=body, content_type=content_type)

    @pytest.mark.parametrize(
        ("content_type", "body"),
        [
            (PICKLE, b"no pickle"),
            (PICKLE, pickle.dumps(5)),
            (JSON, b"{}"),
            (JSON, b"[[],{}]"),
            (JSON, json.dumps([[{"__type__": "datetime", "__value__": "tomorrow"}], {}, {}]).encode()),
        ],
    )
    def test_a_body_that_celery_cannot_read_is_set_aside(self, flavour: str, content_type: str, body: bytes) -> None:
        with pytest.raises(EnvelopeError, match="the body "):
            prepare(flavour, "json", "pickle", body=body, content_type=content_type)

    @pytest.mark.parametrize(
        "headers",
        [
            {"stamped_headers": 5},
            {"stamped_headers": [["a"]]},
            {"stamped_headers": "order"},
            {"stamps": 5},
            {"stamps": ["order"]},
            {"eta": "0001-01-01T00:00:00+14:00"},
            {"expires": "9999-12-31T23:59:59-14:00"},
        ],
    )
    def test_headers_that_celery_would_die_of_are_set_aside(self, flavour: str, headers: dict[str, Any]) -> None:
        with pytest.raises(EnvelopeError, match=f"{next(iter(headers))} is "):
            prepare(flavour, "json", **headers)

    def test_a_call_of_the_first_protocol_is_handed_on(self, flavour: str) -> None:
        for more in ({}, {"eta": "2026-08-01T00:00:00+00:00", "timelimit": [None, 5], "callbacks": None}):
            prepare_first(flavour, task="payment.plain", id="t-1", args=[1], kwargs={"a": 2}, **more)

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({"task": "payment.nothing", "id": "t-1"}, "the service has no task 'payment.nothing'"),
            ({"task": ["payment.plain"], "id": "t-1"}, "the service has no task"),
            ({"id": "t-1", "args": []}, "it names no task: neither in its headers, nor in its body"),
            ({"task": "payment.plain"}, "the id is None, not a text"),
            ({"task": "payment.plain", "id": "t-1", "args": 5}, "the body is not that of a task message"),
            ({"task": "payment.plain", "id": "t-1", "kwargs": []}, "the body is not that of a task message"),
            ({"task": "payment.plain", "id": "t-1", "eta": "soon"}, "eta is 'soon', not a timestamp"),
        ],
    )
    def test_what_is_no_call_of_the_first_protocol_either_is_set_aside_with_its_reason(
        self, flavour: str, body: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(EnvelopeError, match=reason):
            prepare_first(flavour, **body)


def prepare_first(flavour: str, **body: Any) -> None:
    """Prepare a call as Celery sends it with ``task_protocol = 1``: all of it is in the body."""
    tasks = {"payment.plain"}
    queue = TaskQueue("t", handler="payment", tasks=lambda: tasks, accept=lambda: prepare_accept_content(["json"]))
    queue.prepare(FLAVOURS[flavour](Channel(), json.dumps(body).encode(), {}, JSON, "utf-8"))
