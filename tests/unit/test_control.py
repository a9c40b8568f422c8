"""Whose workers a remote control command reaches."""

import re

import pytest
from celery.app.control import Control
from celery.utils.nodenames import nodesplit

from choreo.worker.control import LOOK, full_name, node_name, nodes_of, wake_workers
from tests.unit.stage import service


@pytest.mark.parametrize(
    ("given", "node"),
    [
        ("celery@host", "payment@payment.host"),
        ("payment@host", "payment@payment.host"),
        ("payment.fast@host", "payment.fast@payment.host"),
        ("w1@host", "payment.w1@payment.host"),
        ("payments@host", "payment.payments@payment.host"),
        ("payment@payment.default.svc", "payment@payment.default.svc"),
    ],
)
def test_a_worker_is_named_so_that_its_service_is_told_from_it(given: str, node: str) -> None:
    assert node_name("payment", given) == node
    assert re.match(nodes_of("payment"), node)
    assert node_name("payment", node) == full_name(node) == node


@pytest.mark.parametrize("node", ["payments@host", "loyalty@host", "pay@host", "xpayment@host", "payment_eu@host"])
def test_another_services_workers_do_not_match(node: str) -> None:
    assert not re.match(nodes_of("payment"), node)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    sent: list[dict[str, object]] = []

    def broadcast(self: Control, command: str, arguments: object = None, destination: object = None, **options: object):
        sent.append({"command": command, "destination": destination, **options})

    monkeypatch.setattr(Control, "broadcast", broadcast)
    return sent


def test_a_command_reaches_its_own_service_unless_told_otherwise(sent) -> None:
    service("payment").control.broadcast("shutdown")

    assert sent == [
        {"command": "shutdown", "destination": None, "pattern": nodes_of("payment"), "matcher": "pcre"},
    ]


def test_a_worker_of_another_service_can_be_named(sent) -> None:
    service("payment").control.broadcast("ping", destination=["loyalty@loyalty.host"])

    assert sent == [{"command": "ping", "destination": ["loyalty@loyalty.host"], "limit": 1}]


def test_a_worker_can_be_named_by_its_service_and_the_host(sent) -> None:
    service("payment").control.broadcast("ping", destination=["loyalty.fast@host", "celery@host"])

    # An ordinary worker of Celery has no other name.
    nodes = ["loyalty.fast@host", "celery@host", "loyalty.fast@loyalty.host", "celery@celery.host"]
    assert sent == [{"command": "ping", "destination": nodes, "limit": 2}]


def test_two_services_on_one_host_are_two_hosts_to_an_exporter() -> None:
    hosts = {nodesplit(node_name(name, "celery@host"))[1] for name in ("payment", "loyalty")}

    assert len(hosts) == 2


def test_inspect_and_shutdown_stay_in_the_service_too(sent) -> None:
    control = service("payment").control
    control.inspect().active()
    control.shutdown()

    assert [options["pattern"] for options in sent] == [nodes_of("payment")] * 2


def test_the_pool_still_has_the_limit_that_is_lowered() -> None:
    from billiard import pool

    assert hasattr(pool, "GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT"), (
        "billiard has renamed how long a child waits for its results to be read: see choreo/worker/node.py"
    )


def test_answers_in_no_recognisable_form_are_left_out() -> None:
    inspect = service("payment").control.inspect()

    assert inspect._prepare([5, {"payment@host": {"ok": "pong"}}, [], None, "x"]) == {"payment@host": {"ok": "pong"}}
    assert not inspect._prepare(None)


def test_workers_are_woken_by_their_services_and_a_broker_that_is_away_is_no_error(
    sent: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = service("command_line")

    wake_workers(app, ["payment", "driver"])

    assert [(one["command"], one["pattern"]) for one in sent] == [
        (LOOK, nodes_of("payment")),
        (LOOK, nodes_of("driver")),
    ]

    def away(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(app, "connection_for_write", away)
    wake_workers(app, ["payment"])
    assert len(sent) == 2
