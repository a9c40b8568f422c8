"""A worker whose Redis is away at the start waits for it, and then handles events."""

import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.chaos.proxy import Proxy
from tests.integration.orders import OrderPlaced
from tests.integration.workers import Payment
from tests.waiting import eventually

WAITS = "this worker begins once the store is back"


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_waits_for_a_redis_that_is_away_at_its_start(redis_url: str, tmp_path: Path, pool: str) -> None:
    url = urlsplit(redis_url)
    with Proxy(url.hostname or "127.0.0.1", url.port or 6379) as proxy:
        proxy.mode = "refuse"
        through = url._replace(netloc=f"{url.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}".lstrip("@")).geturl()
        payment = Payment(through, redis_url, f"away_{pool}", tmp_path)
        payment.settings["choreo_store_url"] = through
        log = tmp_path / "one.log"

        def come_back() -> None:
            eventually(lambda: log.exists() and WAITS in log.read_text())
            proxy.mode = "ok"

        threading.Thread(target=come_back, daemon=True).start()
        try:
            worker = payment.worker("--pool", pool)

            payment.app.publish(OrderPlaced(number=1))
            eventually(lambda: payment.noted("done") == [1])
            assert "Traceback" not in worker.log()
            assert worker.stop() == 0
        finally:
            payment.close()
