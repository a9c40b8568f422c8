"""A worker that is forked from the nursery is to the tests what one is that starts from nothing."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.nursery import run_choreo, start_worker
from tests.waiting import DEADLINE, eventually

both = pytest.mark.parametrize("fresh", [False, True], ids=["forked", "fresh"])


@pytest.fixture
def payment(fresh: bool, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[Payment]:
    payment = Payment(redis_url, redis_url, namespace, tmp_path, fresh=fresh)
    yield payment
    payment.close()


@both
def test_workers_have_their_own_settings_sessions_and_ends(payment: Payment) -> None:
    one = payment.worker("--pool", "prefork", choreo_version="1.4.1")
    two = payment.worker("--pool", "solo", name="two", choreo_version="1.4.2")
    assert [os.getsid(worker.process.pid) for worker in (one, two)] == [one.process.pid, two.process.pid]
    assert {worker.version for worker in payment.app.runtime.store.workers("payment")} == {"1.4.1", "1.4.2"}
    payment.app.publish_many([OrderPlaced(number=number) for number in range(4)])
    eventually(lambda: payment.noted("done") == [0, 1, 2, 3])

    assert one.stop() == 0
    assert two.process.poll() is None
    two.kill()

    assert two.process.wait(DEADLINE) == two.process.returncode == -signal.SIGKILL


@both
def test_a_worker_that_cannot_start_says_why(fresh: bool, tmp_path: Path) -> None:
    worker = start_worker("no.such.module", log=tmp_path / "log", environment=os.environ, fresh=fresh)

    assert worker.wait(DEADLINE) == 1
    assert "No module named 'no'" in (tmp_path / "log").read_text()


@both
def test_two_threads_may_wait_for_the_end_of_one_worker(fresh: bool, tmp_path: Path) -> None:
    worker = start_worker("no.such.module", log=tmp_path / "log", environment=os.environ, fresh=fresh)

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: worker.wait(DEADLINE), range(8))) == {1}


def test_a_forked_command_has_its_own_directory_environment_output_and_end(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "import os\nfrom choreo import Service\napp = Service(os.environ['SHOP'], config=None)\n"
    )

    code, said = run_choreo("map", "--code", "shop", environment=os.environ | {"SHOP": "kiosk"}, directory=tmp_path)
    assert (code, "Traceback" in said) == (0, False), said

    code, said = run_choreo("map", "--code", "no_shop", environment=os.environ, directory=tmp_path)
    assert (code, "no_shop" in said) == (2, True), said
