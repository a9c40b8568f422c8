"""Who is there: real workers tell the store what they are, what they declare, and which queues they consume."""

import os
import socket

from pydantic import create_model

import choreo
from choreo import Event, Service
from choreo.contracts.contract import Contract, Contracts
from choreo.contracts.deploy import pairs
from choreo.contracts.running import look
from choreo.declare.models import described_models
from choreo.store.presence import Presence, Program
from tests.integration.orders import OrderPlaced
from tests.integration.workers import ROOT, Payment
from tests.waiting import DEADLINE, eventually


def presence(payment: Payment) -> Presence:
    return payment.app.runtime.store.presence("payment")


def only(payment: Payment) -> Program:
    (worker,) = payment.app.runtime.store.workers("payment")
    return worker


def queues(payment: Payment, *names: str) -> tuple[str, ...]:
    return tuple(f"{payment.namespace}.payment{name and f'.{name}'}" for name in names)


def test_a_worker_is_known_from_its_start_to_its_end_and_after_it(payment: Payment) -> None:
    worker = payment.worker("--pool", "threads", choreo_version="1.4.2")

    known = only(payment)
    assert known.node.startswith("payment.one@payment.")
    assert (known.host, known.pid) == (socket.gethostname(), worker.process.pid)
    assert (known.version, known.choreo, known.pool, known.concurrency) == ("1.4.2", choreo.__version__, "threads", 2)
    assert known.queues == queues(payment, "", "charge_customer", "dead_letters")
    assert known.file == str(ROOT / "tests/integration/worker_app.py")
    assert 0 < known.since <= known.seen
    (described,) = payment.app.observe.map().handlers
    assert (described.name, described.reads) == ("payment.charge_customer", {"order.placed": ("number", "seconds")})

    worker.stop()

    gone = presence(payment)
    assert [program.name for program in gone.gone] == [known.name]
    assert gone.workers == []
    assert payment.app.observe.map().event("order.placed") is not None, "a service that is stopped stays known"


def test_the_queues_that_a_worker_really_consumes_are_known_at_once(payment: Payment) -> None:
    payment.worker("--pool", "solo", "-Q", f"{payment.namespace}.payment.charge_customer", patterns="order.*")
    assert only(payment).queues == queues(payment, "charge_customer")
    assert [idle.queue for idle in payment.app.observe.map().idle] == [f"{payment.namespace}.payment.watch_order"]

    payment.app.control.add_consumer(f"{payment.namespace}.payment.watch_order")
    eventually(lambda: only(payment).queues == queues(payment, "charge_customer", "watch_order"))
    payment.app.control.cancel_consumer(payment.queue)
    eventually(lambda: only(payment).queues == queues(payment, "watch_order"))

    payment.app.publish(OrderPlaced(number=1))
    (idle,) = payment.app.observe.map().idle
    assert (idle.queue, idle.waiting, idle.is_undeclared) == (payment.queue, 1, False)


def test_a_program_that_only_publishes_is_on_the_map(payment: Payment) -> None:
    payment.app.publish(OrderPlaced(number=1))
    payment.app.runtime.sightings.flush(DEADLINE)

    seen = presence(payment)
    assert list(seen.announced) == ["order.placed"]
    assert [program.pid for program in seen.gone] == [os.getpid()]
    (announcer,) = payment.app.observe.map().event("order.placed").announced_by
    assert (announcer.name, announcer.how) == ("payment", "seen")


def test_a_worker_tells_what_it_reads_so_that_a_deployment_is_judged(payment: Payment) -> None:
    worded = create_model("Worded", __base__=Event, __cls_kwargs__={"type": "order.placed"}, number=(str, "one"))
    payment.worker("--pool", "solo", choreo_version="1.4.2")
    running = look(payment.app, ["order.placed"])

    def verdicts(announced: type[Event]) -> list[tuple[str, ...]]:
        shop = Service("shop", config=None, announces=[announced], set_as_current=False)
        contract = Contract(described_models([announced])[announced])
        made = Contracts("this checkout", [contract], [shop.describe()], releases={"shop": "2.0"})
        return [(pair.consumer_version, str(pair.verdict), *pair.reasons) for pair in pairs(made, running)]

    assert verdicts(OrderPlaced) == [("1.4.2", "yes")]
    ((version, verdict, reason),) = verdicts(worded)
    assert (version, verdict) == ("1.4.2", "no")
    assert reason.startswith(
        "payment 1.4.2 still reads `number` of order.placed (payment.charge_customer): number is written as a text and "
        "read as a whole number · fix: "
    )
