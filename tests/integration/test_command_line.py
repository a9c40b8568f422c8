"""The commands, where broker and store are real, or are not there at all."""

import pytest

from tests.commands import environment, run  # noqa: F401 - the fixture is for every test here

#: Nobody listens there.
GONE = "redis://alice:secret@127.0.0.1:1/0"
ASSIGNED = '{"customer_id": "alice", "driver_id": "DRV-1", "estimated_minutes": 5}'


@pytest.mark.parametrize("command", [["dead-letters", "list"], ["joins", "list"], ["joins", "show", "ORD-1"]])
def test_a_store_that_does_not_answer_is_named_with_the_way_out(command):
    said = run(*command, "--broker", GONE, code=1).stderr
    assert "The store is redis://alice:**@127.0.0.1:1/0. Start it, or correct --broker / CHOREO_BROKER_URL, or" in said

    said = run(*command, "--broker", "amqp://nowhere", "--store", GONE, code=1).stderr
    assert "The store is redis://alice:**@127.0.0.1:1/0. Start it, or correct --store / CHOREO_STORE_URL.\n" in said
    assert said.count("\n") == 1


def test_a_broker_that_does_not_answer_is_named_with_the_way_out():
    said = run("publish", "driver.assigned", "--subject", "ORD-1", "--broker", GONE, "--data", ASSIGNED, code=1).stderr

    assert "the broker did not take 'driver.assigned ORD-1'" in said
    assert "The broker is redis://alice:**@127.0.0.1:1/0. Start it, or correct --broker / CHOREO_BROKER_URL.\n" in said
    assert said.count("\n") == 1


def test_an_event_that_nobody_hears_is_announced_and_the_broker_is_asked_about(
    redis_url: str, caplog: pytest.LogCaptureFixture
):
    # A database of its own, where no other test has left a binding.
    broker = f"{redis_url.rpartition('/')[0]}/9"

    result = run("publish", "driver.assigned", "--subject", "ORD-1", "--broker", broker, "--data", ASSIGNED, code=0)

    assert "driver.assigned ORD-1 announced" in result.stdout
    shown = f"redis://:**@{broker.rpartition('@')[2]}"
    assert result.stderr == (
        f"Warning: no handler listens to driver.assigned at {shown} (no namespace). Is this the right broker and "
        f"namespace? (--broker / CHOREO_BROKER_URL, --namespace / CHOREO_NAMESPACE)\n"
    )
    assert "nobody listens" not in caplog.text, "that would be the second time"


def test_the_namespace_is_named_beside_the_broker(redis_url: str, monkeypatch: pytest.MonkeyPatch, namespace: str):
    monkeypatch.setenv("CHOREO_NAMESPACE", namespace)

    result = run("publish", "driver.assigned", "--subject", "ORD-1", "--broker", redis_url, "--data", ASSIGNED, code=0)

    assert f" (namespace {namespace!r}). " in result.stderr
