"""A call of an ordinary task reaches Celery as it came, or is set aside, where Celery would drop it or die of it."""

import json
import pickle
from typing import Any

import pytest
from celery import chord, group
from celery.canvas import Signature
from kombu.serialization import prepare_accept_content

from choreo.broker.task_queue import TaskQueue
from choreo.errors import EnvelopeError
from choreo.events.message import JSON
from tests.unit.test_queue import FLAVOURS, Channel

SIGNATURE: Any = json.loads(json.dumps(Signature("payment.plain", args=(1,), link_error=Signature("payment.plain"))))
GROUP: Any = json.loads(json.dumps(group(SIGNATURE, SIGNATURE)))
CHORD: Any = json.loads(json.dumps(chord(GROUP, SIGNATURE)))
#: What is no signature.
JUNK: list[Any] = [
    *(5, "x", True, [], {}, {"task": 5}, {"task": ""}, {"args": [], "kwargs": {}, "options": {}}),
    *(SIGNATURE | odd for odd in ({"args": 5}, {"args": None}, {"kwargs": []}, {"options": 5}, {"task": None})),
    *(SIGNATURE | {"subtask_type": kind} for kind in (5, "nope", "chord", "group", "chain", "xmap", "chunks", [])),
    *(SIGNATURE | {"options": {name: 5}} for name in ("link", "link_error", "chain", "chord", "task_id", "queue")),
    *(SIGNATURE | {"options": {name: [{}]}} for name in ("link", "link_error", "chain", "chord")),
    GROUP | {"kwargs": {"tasks": [{}]}},
    CHORD | {"kwargs": CHORD["kwargs"] | {"body": {}}},
    CHORD | {"kwargs": CHORD["kwargs"] | {"header": [5]}},
]

HEADERS = {"task": "payment.plain", "id": "t-1", "retries": 0, "eta": None, "timelimit": [None, None]}
CALL: Any = [[1], {"a": 2}, {"callbacks": None}]
BUILT_IN = [f"celery.{name}" for name in ("map", "starmap", "chunks", "chain", "group", "chord", "chord_unlock")]
PICKLE = "application/x-python-serialize"


def prepare(
    flavour: str, *accept: str, body: bytes = json.dumps(CALL).encode(), content_type: Any = JSON, **headers: Any
) -> None:
    tasks = {"payment.plain", *BUILT_IN}
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
            {"id": "t-1\n2026 CRITICAL all is lost"},
            {"shadow": "\x1b]0;x\x07"},
            {"shadow": ["a"]},
            {"root_id": 5},
            {"parent_id": "\u202e"},
            {"group": {}},
        ],
    )
    def test_headers_that_celery_would_die_of_are_set_aside(self, flavour: str, headers: dict[str, Any]) -> None:
        with pytest.raises(EnvelopeError, match=f"{next(iter(headers))} is "):
            prepare(flavour, "json", **headers)

    @pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain"])
    @pytest.mark.parametrize("one", [SIGNATURE, GROUP, CHORD])
    def test_calls_that_follow_are_handed_on(self, flavour: str, name: str, one: Any) -> None:
        following = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}

        prepare(flavour, "json", body=json.dumps([[1], {}, following | {name: [one, one]}]).encode())
        prepare(flavour, "json", body=json.dumps([[1], {}, following | {"chord": one}]).encode())
        prepare(flavour, "json", body=json.dumps([[1], {}, {"errbacks": ["payment.plain"]}]).encode())

    @pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain", "chord"])
    @pytest.mark.parametrize("junk", JUNK, ids=str)
    def test_calls_that_celery_could_not_make_are_set_aside(self, flavour: str, name: str, junk: Any) -> None:
        if name == "errbacks" and isinstance(junk, str):
            junk = 5  # there it is the name of a task
        for value in [junk] if name == "chord" else [[junk], [SIGNATURE, junk]]:
            with pytest.raises(EnvelopeError):
                prepare(flavour, "json", body=json.dumps([[1], {}, {name: value}]).encode())

    def test_a_third_part_with_other_names_is_set_aside(self, flavour: str) -> None:
        with pytest.raises(EnvelopeError, match="delivery_info"):
            prepare(flavour, "json", body=json.dumps([[1], {}, {"delivery_info": 5}]).encode())

    def test_calls_nested_beyond_reading_are_set_aside(self, flavour: str) -> None:
        deep = SIGNATURE
        for _ in range(150):
            deep = GROUP | {"kwargs": {"tasks": [deep]}}

        with pytest.raises(EnvelopeError, match="nested"):
            prepare(flavour, "json", body=json.dumps([[1], {}, {"chain": [deep]}]).encode())

    @pytest.mark.parametrize("task", BUILT_IN)
    @pytest.mark.parametrize(
        "body", [[[], {}, {}], [[5, 5], {}, {}], [[], {"task": {}, "it": []}, {}], [[], {"it": 5}, {}]]
    )
    def test_calls_of_celerys_own_tasks_that_it_never_makes_are_set_aside(
        self, flavour: str, task: str, body: Any
    ) -> None:
        with pytest.raises(EnvelopeError):
            prepare(flavour, "json", body=json.dumps(body).encode(), task=task)

    def test_maps_and_chunks_are_handed_on(self, flavour: str) -> None:
        for name in ("map", "starmap", "chunks"):
            call: Any = [[], {"task": SIGNATURE, "it": [[1], [2]]} | ({"n": 2} if name == "chunks" else {}), {}]
            prepare(flavour, "json", body=json.dumps(call).encode(), task=f"celery.{name}")

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
