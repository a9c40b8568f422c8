"""A Redis Cluster is the store: slots that move and nodes that fail lose nothing. As the broker it is refused."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from choreo import DeclarationError, PublishError, Service
from choreo.broker.redis.taking import reconnect_on_refusal
from choreo.errors import StoreError
from choreo.local.server import free_port
from choreo.redis_client import evictions
from choreo.redis_client.refusals import REMEDIES, is_outage
from choreo.store import Outcome, Scheduled, Settlement, Verdict
from choreo.store.letters import Card
from choreo.store.redis import RedisStore
from tests.contract.redis_programs import Cluster, behind_tls, clustered
from tests.contract.rigs import DONE, TERMS, at, claim, message, part_of, replay, settle
from tests.unit.events import OrderPlaced
from tests.waiting import DEADLINE, eventually

DEPLOYMENT = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()


def make_app(url: str) -> Service:
    app = Service("payment", broker=url, config={}, set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    return app


@pytest.fixture
def store(cluster: Cluster, namespace: str) -> RedisStore:
    return RedisStore(cluster.url, TERMS, f"{namespace}:choreo")


@pytest.fixture(scope="module")
def frail(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of this module's own, for a test that kills a node."""
    with clustered(tmp_path_factory.mktemp("frail"), timeout=1000) as cluster:
        yield cluster


@contextmanager
def outages() -> Iterator[None]:
    """Passes over an outage, and no other error."""
    try:
        yield
    except StoreError as error:
        if not error.is_outage:
            raise


def soon(call: Callable[[], Any]) -> Any:
    """Call until it is no outage, and return the answer."""
    answers: list[Any] = []

    def answered() -> list[Any]:
        with outages():
            answers.append(call())
        return answers

    return eventually(answered)[0]


def test_publishing_to_a_cluster_says_so(cluster: Cluster) -> None:
    with pytest.raises(PublishError, match=r"This is a Redis Cluster.*Sentinels of one.*RabbitMQ.*choreo_store_url"):
        make_app(cluster.url).publish(OrderPlaced(customer_id="alice", total_cents=5))


def test_no_worker_waits_for_a_cluster_as_its_broker(cluster: Cluster) -> None:
    store = make_app(cluster.url).runtime.store

    with pytest.raises(StoreError, match="It can be the store, and not the broker") as failed:
        store.commit(claim(), DONE)
    assert not failed.value.is_outage
    error = redis.exceptions.MovedError("7544 127.0.0.1:17102")
    assert not is_outage(error)
    with pytest.raises(redis.ConnectionError, match="This is a Redis Cluster"), reconnect_on_refusal():
        raise error
    assert REMEDIES["MOVED"] == REMEDIES["CROSSSLOT"]


def test_the_keys_of_handlers_are_on_different_nodes(cluster: Cluster, store: RedisStore) -> None:
    handlers = [cluster.handler_on(number) for number in range(3)]

    for handler in handlers:
        store.schedule(handler, at("now"))
        store.schedule(handler, at("later", 1000))
        store.tend(handler, 60)
    store.register(handlers)
    store.describe_joins(dict.fromkeys(handlers, "{}"))

    assert store.ripe([*handlers, "nothing.here"]) == list(handlers)
    assert [store.backlog(handler).due for handler in handlers] == [1, 1, 1]
    assert store.handlers() == sorted(handlers) == sorted(store.joins())
    assert all(map(store.tended, handlers))
    store.ping()


def test_a_script_is_loaded_into_each_node(cluster: Cluster, store: RedisStore) -> None:
    for node in cluster.nodes[:3]:
        node.script_flush()

    for handler in map(cluster.handler_on, range(3)):
        assert store.begin(claim(handler=handler)).verdict is Verdict.RUN


def decisions(store: RedisStore, handler: str) -> list[Callable[[], Any]]:
    """Each way to the store, with the same result however often it is taken."""
    done = Settlement(scheduled=[Scheduled("later", message(), 900)])
    return [
        lambda: store.begin(claim(unit="e-new", handler=handler)),
        lambda: store.begin(claim(unit="e-done", token="B", handler=handler)),
        lambda: store.renew(claim(handler=handler)),
        lambda: store.returned(handler, "d-1"),
        lambda: store.commit(claim(handler=handler), done),
        lambda: store.forgive(claim(unit="e-new", handler=handler)),
        lambda: store.arrive(claim(unit="join:ORD-1", handler=handler), part_of("a")),
        lambda: store.look(handler, "join:ORD-1"),
        lambda: store.pending(handler, 10),
        lambda: store.tally(handler),
        lambda: store.schedule(handler, at("scheduled", 900)),
        lambda: store.unschedule(handler, "nothing"),
        lambda: store.ripe([handler]),
        lambda: store.due(handler, 10, 25),
        lambda: store.sent(handler, ["nothing"]),
        lambda: store.backlog(handler),
        lambda: store.letters(handler),
        lambda: store.letter(handler, "l-1"),
        lambda: store.letter_count(handler),
        lambda: store.letter_count(handler, "g"),
        lambda: [(one.group, one.count) for one in store.letter_groups(handler)],
        lambda: [place.id for place in store.letter_places(handler, 1)],
        lambda: store.letters_about(handler, "ORD-1"),
        lambda: store.unfiled(handler),
        lambda: store.file_letters(handler, {"l-1": Card("g")}),
        lambda: store.discard_all(handler, ["nothing"]),
        lambda: store.record_end(handler, "e-new", "killed"),
        lambda: store.last_end(handler, "e-new"),
        lambda: store.discard(handler, "nothing"),
        lambda: replay(store, handler, "l-2", "e-2", {}, at("replayed", 900)),
        lambda: store.tend(handler, 60),
        lambda: store.tended(handler),
        lambda: store.declare(handler, "w", [("q", "order.placed")], 60),
        lambda: store.declared(handler),
        lambda: store.listening(handler),
    ]


def prepare(store: RedisStore, handler: str) -> None:
    """A claim, a finished unit, a dead letter to keep, another to replay, and a part of a join."""
    store.begin(claim(handler=handler))
    store.begin(claim(unit="e-done", handler=handler))
    assert settle(store, claim(unit="e-done", handler=handler), DONE) is Outcome.OK
    store.add_letter(handler, "l-1", "{}", (), Card("g"))
    store.add_letter(handler, "l-2", "{}")
    store.arrive(claim(unit="join:ORD-1", handler=handler), part_of("a"))


def assert_nothing_is_lost(store: RedisStore, handler: str) -> None:
    """After all `decisions`."""
    assert store.begin(claim(token="C", handler=handler)).verdict is Verdict.DONE
    assert store.begin(claim(unit="e-done", token="C", handler=handler)).verdict is Verdict.DONE
    assert store.begin(claim(unit="e-new", token="C", handler=handler)).verdict is Verdict.BUSY
    assert len(store.letters(handler)) == 1
    assert store.letter(handler, "l-1") == "{}"
    waiting = store.look(handler, "join:ORD-1")
    assert waiting is not None
    assert list(waiting.parts) == ["a"]
    # The deadline of the join, and each message once.
    assert store.backlog(handler).later == len(["deadline", "later", "scheduled", "replayed"])
    assert list(store.declared(handler)) == ["w"]


@pytest.mark.parametrize("there", [0, 3, 1000], ids=["none", "some", "all"])
def test_a_slot_that_moves_loses_nothing(
    cluster: Cluster, store: RedisStore, monkeypatch: pytest.MonkeyPatch, there: int
) -> None:
    # No call waits for the move, which does not end before they are made.
    monkeypatch.setattr("choreo.store.calls._PAUSES", ())
    monkeypatch.setattr(redis.RedisCluster, "RedisClusterRequestTTL", 4)
    handler = cluster.handler_on(0)
    prepare(store, handler)

    with cluster.moving(cluster.slot(handler), 0, 1) as move:
        move(there)
        for decide in decisions(store, handler):
            with outages():
                decide()
    for decide in decisions(store, handler):
        decide()
    with cluster.moving(cluster.slot(handler), 1, 0):
        pass

    assert_nothing_is_lost(store, handler)


def test_a_call_is_repeated_until_the_move_has_ended(
    cluster: Cluster, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = cluster.handler_on(0)
    prepare(store, handler)
    slot = cluster.slot(handler)
    monkeypatch.setattr(redis.RedisCluster, "RedisClusterRequestTTL", 4)

    with ExitStack() as move:
        move.enter_context(cluster.moving(slot, 0, 1))(2)
        # The move ends in the first pause.
        monkeypatch.setattr("choreo.store.calls.time", SimpleNamespace(sleep=lambda _: move.close()))
        outcome = settle(store, claim(handler=handler), DONE)
    with cluster.moving(slot, 1, 0):
        pass

    assert outcome is Outcome.OK


def test_a_node_that_fails_over_loses_nothing(frail: Cluster, namespace: str) -> None:
    store = RedisStore(frail.url, TERMS, f"{namespace}:choreo")
    handler, elsewhere = frail.handler_on(0), frail.handler_on(1)
    for owner in (handler, elsewhere):
        prepare(store, owner)
    eventually(frail.replica_is_in_step)

    frail.processes[0].kill()

    for owner in (handler, elsewhere):
        for decide in decisions(store, owner):
            soon(decide)
        assert_nothing_is_lost(store, owner)
    assert soon(lambda: store.ripe([handler, elsewhere])) == []


def test_any_node_that_answers_leads_to_the_cluster(cluster: Cluster, namespace: str) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0;{cluster.url}"

    store = RedisStore(url, TERMS, f"{namespace}:choreo")

    assert store.begin(claim(handler=cluster.handler_on(2))).verdict is Verdict.RUN


def test_an_old_protocol_leads_to_the_cluster(cluster: Cluster, namespace: str) -> None:
    store = RedisStore(f"{cluster.url}?protocol=2", TERMS, f"{namespace}:choreo")

    for handler in map(cluster.handler_on, range(3)):
        store.schedule(handler, at("now"))
        assert store.begin(claim(handler=handler)).verdict is Verdict.RUN
        assert store.ripe([handler]) == [handler]


def test_several_servers_that_are_no_cluster_are_refused(redis_url: str) -> None:
    store = RedisStore(f"{redis_url};redis://:secret@127.0.0.1:1/0")

    with pytest.raises(DeclarationError, match="They are no cluster, so they share no data") as refused:
        store.ping()
    assert "secret" not in str(refused.value)


def test_another_database_of_a_cluster_is_refused(cluster: Cluster) -> None:
    with pytest.raises(DeclarationError, match=r"database 1 of a Redis Cluster.*end the URL with /0"):
        RedisStore(f"{cluster.url.removesuffix('0')}1").ping()


def test_a_forked_child_has_connections_of_its_own(cluster: Cluster, store: RedisStore) -> None:
    handler = cluster.handler_on(0)
    store.begin(claim(handler=handler))

    child = os.fork()
    if child == 0:
        signal.alarm(int(DEADLINE))
        os._exit(0 if store.begin(claim(unit="e-2", handler=handler)).verdict is Verdict.RUN else 1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    assert settle(store, claim(handler=handler), DONE) is Outcome.OK


def test_each_node_is_watched_for_evictions(
    cluster: Cluster, store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evictions, "_watches", {})

    store.watch()

    assert {name.rpartition(":")[2] for name in evictions._watches} == {str(port) for port in cluster.ports[:3]}


def test_a_user_with_the_least_rights_can_use_a_cluster(cluster: Cluster, namespace: str) -> None:
    prefix = f"{namespace}:choreo"
    rights = re.search(r"^ACL SETUSER store on (.*)$", DEPLOYMENT, re.MULTILINE)
    assert rights
    words = rights[1].replace("~choreo:*", f"~{prefix}:*").split()
    for node in cluster.nodes:
        node.execute_command("ACL", "SETUSER", namespace, "on", ">secret", *words)
    store = RedisStore(cluster.url.replace("//", f"//{namespace}:secret@"), TERMS, prefix)

    handler = cluster.handler_on(0)
    prepare(store, handler)
    for decide in decisions(store, handler):
        decide()

    assert_nothing_is_lost(store, handler)
    with pytest.raises(StoreError, match="no such user, or another password"):
        RedisStore(cluster.url.replace("//", f"//{namespace}:wrong@"), TERMS, prefix).ping()


def test_all_nodes_are_spoken_to_over_tls(tmp_path: Path, namespace: str) -> None:
    options = ("--dir", tmp_path, "--cluster-enabled", "yes", "--tls-cluster", "yes", "--cluster-port", free_port())
    with behind_tls(tmp_path, *options) as (port, certificate):
        with redis.Redis(port=port, ssl=True, ssl_ca_certs=str(certificate)) as node:
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"
        store = RedisStore(url, TERMS, f"{namespace}:choreo")

        assert soon(lambda: store.begin(claim())).verdict is Verdict.RUN
        assert store.ripe(["driver.assign"]) == []
