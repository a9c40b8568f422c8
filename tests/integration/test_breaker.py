"""An outage with real workers: few calls, no dead letters, and everything is handled once afterwards."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from choreo.local.server import EmbeddedServer
from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually

CHARGE = "payment.charge_customer"
ORDERS = 200
#: "apart": the fast lane is off. Threads and gevent are then a pool of the worker's own process, as solo is.
PLACES = [(pool, broker) for pool in ("solo", "threads", "prefork", "gevent") for broker in ("redis", "rabbitmq")]
PLACES += [("solo", "apart"), ("prefork", "apart")]


class Shop(Payment):
    """The service ``payment``, whose gateway can be away."""

    def flag(self, name: str, *, on: bool = True) -> None:
        key = f"{self.namespace}:{name}"
        self._notebook.set(key, 1) if on else self._notebook.delete(key)

    def publish(self, *numbers: int, seconds: float = 0) -> None:
        self.app.publish_many([OrderPlaced(number=number, seconds=seconds) for number in numbers])

    @property
    def pause(self):
        return self.app.runtime.store.pause_of(CHARGE)

    def is_held(self) -> bool:
        """True if the handler is paused, and every worker holds its queue back: only probes begin now."""
        queue = self.app.runtime.queue_of(CHARGE)
        live = self.app.runtime.store.workers("payment")
        return self.pause is not None and len(live) == len(self.workers) and all(queue in one.paused for one in live)

    def ends_well(self, *numbers: int) -> None:
        """Fail unless all orders are charged and watched once, nothing is a dead letter, and the breaker is closed."""
        for what in ("done", "watched"):
            eventually(lambda what=what: len(self.noted(what)) >= len(numbers), reason=f"all orders are {what}")
        eventually(lambda: self.pause is None)
        time.sleep(0.5)  # whatever is handled twice comes now
        assert self.noted("done") == sorted(numbers)
        assert self.noted("watched") == sorted(numbers)
        assert not self.app.dead_letters.find()


@pytest.fixture
def shop(request: pytest.FixtureRequest, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Shop]:
    broker = request.getfixturevalue("rabbitmq_url") if "rabbitmq" in request.node.name else redis_url
    shop = Shop(broker, redis_url, namespace, tmp_path, app="breaker_app")
    yield shop
    shop.close()


@pytest.mark.parametrize(("pool", "broker"), PLACES)
def test_an_outage_costs_few_calls_and_no_dead_letters(shop: Shop, broker: str, pool: str) -> None:
    lane = broker != "apart"
    workers = [shop.worker("--pool", pool, name=name, quiet=True, choreo_fast_lane=lane) for name in ("one", "two")]
    shop.flag("away")
    shop.publish(*range(ORDERS))
    eventually(lambda: shop.pause is not None)
    eventually(lambda: len(shop.noted("watched")) == ORDERS)  # other handlers go on
    eventually(lambda: shop.pause is not None and shop.pause.probes >= 4)

    assert shop.pause.by == "breaker"
    assert shop.pause.error.startswith("ConnectionError breaker_app:")
    assert shop.noted("done") == []
    # 3 that open it, those that run at the same time in 2 workers of 2 places, as many again before a pool's parent has
    # learnt of it, and the probes; on RabbitMQ, gevent runs more at once.
    calls = len(shop.noted("begun"))
    assert calls <= 3 + (30 if pool == "gevent" else 12) + shop.pause.probes, calls
    shop.flag("away", on=False)
    shop.ends_well(*range(ORDERS))
    assert "is paused by its breaker after" in "".join(worker.log() for worker in workers)
    assert "goes on: an event has succeeded after" in "".join(worker.log() for worker in workers)


@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_one_event_at_a_time_is_probed_by_all_workers_together(shop: Shop, pool: str) -> None:
    for name in ("one", "two"):
        shop.worker("--pool", pool, name=name, quiet=True)
    shop.flag("away")
    shop.publish(*range(20))
    eventually(shop.is_held)
    eventually(lambda: shop.pause.probes >= 1)
    before = len(shop.noted("hanging"))

    shop.flag("hangs")
    eventually(lambda: len(shop.noted("hanging")) == before + 1)
    time.sleep(5)  # beyond the longest wait between two probes
    assert len(shop.noted("hanging")) == before + 1
    assert shop.pause.prober.startswith("payment.")

    shop.flag("away", on=False)
    shop.flag("hangs", on=False)
    shop.ends_well(*range(20))


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_another_worker_probes_if_the_prober_is_killed(shop: Shop, broker: str, pool: str) -> None:
    workers = {name: shop.worker("--pool", pool, name=name, quiet=True) for name in ("one", "two")}
    shop.flag("away")
    shop.publish(*range(20))
    eventually(shop.is_held)
    shop.flag("hangs")
    [number] = eventually(lambda: shop.noted("hanging")[-1:] if shop.pause.prober else [])
    prober = workers[shop.pause.prober.partition("@")[0].removeprefix("payment.")]
    os.killpg(prober.process.pid, signal.SIGKILL)
    shop.flag("hangs", on=False)
    shop.flag("away", on=False)

    shop.ends_well(*range(20))
    assert number in shop.noted("done")


def test_a_child_that_is_killed_while_it_probes_ends_the_probe(shop: Shop) -> None:
    shop.worker("--pool", "prefork", quiet=True)
    shop.flag("away")
    shop.publish(*range(10))
    eventually(shop.is_held)
    shop.flag("hangs")
    [number] = eventually(lambda: shop.noted("hanging")[-1:] if shop.pause.prober else [])
    os.kill(int(shop.pid(number)), signal.SIGKILL)
    shop.flag("hangs", on=False)
    shop.flag("away", on=False)

    shop.ends_well(*range(10))


def test_a_worker_that_starts_during_an_outage_begins_paused_and_probes(shop: Shop) -> None:
    first = shop.worker("--pool", "solo", quiet=True)
    shop.flag("away")
    shop.publish(*range(20))
    eventually(lambda: shop.pause is not None and shop.pause.probes >= 2)
    assert first.stop() == 0
    calls, probes = len(shop.noted("begun")), shop.pause.probes

    shop.worker("--pool", "solo", name="two", quiet=True)
    eventually(lambda: shop.pause.probes >= probes + 2)
    assert len(shop.noted("begun")) - calls <= shop.pause.probes - probes + 1

    shop.flag("away", on=False)
    shop.ends_well(*range(20))


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_a_person_resumes_the_handler_and_it_is_paused_again(shop: Shop, pool: str) -> None:
    shop.worker("--pool", pool, quiet=True)
    shop.flag("away")
    shop.publish(*range(50))
    eventually(lambda: shop.pause is not None)
    before = shop.pause.id

    shop.app.pauses.resume(CHARGE)
    eventually(lambda: shop.pause is not None and shop.pause.id != before)
    assert shop.noted("done") == []

    shop.flag("away", on=False)
    shop.app.pauses.resume(CHARGE)
    shop.ends_well(*range(50))


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_the_store_restarts_during_an_outage(
    request: pytest.FixtureRequest, namespace: str, tmp_path: Path, broker: str
) -> None:
    with EmbeddedServer(persistent=True) as server:
        url = server.url if broker == "redis" else request.getfixturevalue("rabbitmq_url")
        shop = Shop(url, server.url, namespace, tmp_path, app="breaker_app")
        try:
            shop.worker("--pool", "solo", quiet=True)
            shop.flag("away")
            shop.publish(*range(20))
            eventually(lambda: shop.pause is not None and shop.pause.probes >= 1)
            server.restart()
            probes = eventually(lambda: shop.pause).probes
            eventually(lambda: shop.pause.probes > probes + 1)

            shop.flag("away", on=False)
            shop.ends_well(*range(20))
        finally:
            shop.close()


def test_an_outage_in_which_the_gateway_hangs_makes_no_dead_letters(shop: Shop) -> None:
    """Each call ends at the time limit, with its process."""
    shop.worker("--pool", "prefork", quiet=True, limit=1)
    shop.flag("hangs")
    shop.publish(*range(6))
    eventually(lambda: shop.pause is not None)
    assert shop.pause.error.startswith("HandlerTimeoutError")
    eventually(lambda: shop.pause.probes >= 3)

    shop.flag("hangs", on=False)
    shop.ends_well(*range(6))


def test_only_a_worker_that_consumes_the_queue_probes(shop: Shop) -> None:
    shop.worker("--pool", "solo", quiet=True)
    shop.worker("--pool", "solo", "-Q", shop.app.runtime.queue_of("payment.watch_order"), name="two", quiet=True)
    shop.flag("away")
    shop.publish(*range(10))
    eventually(lambda: shop.pause is not None)
    probers: set[str] = set()

    def probed() -> bool:
        pause = shop.pause
        probers.add(pause.prober)
        return pause.probes >= 5

    eventually(probed)
    assert probers - {""} <= {next(one.node for one in shop.app.runtime.store.workers("payment") if "one" in one.node)}
    shop.flag("away", on=False)
    shop.ends_well(*range(10))
