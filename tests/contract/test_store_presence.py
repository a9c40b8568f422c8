"""The promises of every store: who is there, and who was."""

from typing import Any

from choreo.store.presence import MOST_GONE, MOST_SEEN, SEEN_FOR, Presence, Program

TTL = 65.0


def worker(name: str = "payment@a/1", node: str = "", **about: Any) -> Program:
    usual: dict[str, Any] = {"pool": "solo", "concurrency": 1, "since": 1.0, "digest": "d-1"}
    return Program(name, node or name.partition("/")[0], **usual | about)


def names(programs: Any) -> list[str]:
    return [program.name for program in programs]


def test_a_service_that_nobody_knows_has_no_programs(store):
    assert store.presence("payment") == Presence([], [], {}, {})
    assert store.presence("payment").seen == 0.0
    assert store.services() == []


def test_a_worker_is_known_with_all_that_it_tells(store):
    told = worker(
        host="a", pid=7, version="1.4.2", choreo="0.1.0", queues=("payment.b", "payment.a"), file="/srv/payment.py"
    )

    store.report("payment", told, '{"é": 1}', TTL)

    (one,) = store.workers("payment")
    assert (one.host, one.pid, one.version, one.choreo, one.pool) == ("a", 7, "1.4.2", "0.1.0", "solo")
    assert one.queues == ("payment.a", "payment.b")
    assert one.is_worker
    assert one.is_alive
    assert one.seen > 0
    assert store.presence("payment").descriptions == {"d-1": '{"é": 1}'}
    assert store.presence("driver").workers == []


def test_what_a_worker_tells_later_replaces_what_it_told(store):
    store.report("payment", worker(queues=("payment.a", "payment.b")), "one", TTL)
    store.report("payment", worker(queues=("payment.a",), digest="d-2"), "two", TTL)

    (one,) = store.workers("payment")
    assert one.queues == ("payment.a",)
    assert store.presence("payment").descriptions == {"d-2": "two"}


def test_workers_with_one_description_share_it_and_two_descriptions_are_told_apart(rig):
    store = rig.store
    store.report("payment", worker("payment@a/1", since=1.0), "old", TTL)
    store.report("payment", worker("payment@b/1", since=2.0), "old", TTL)
    assert store.presence("payment").current == ["old"]

    store.report("payment", worker("payment@c/1", since=3.0, digest="d-2"), "new", TTL)

    assert names(store.workers("payment")) == ["payment@a/1", "payment@b/1", "payment@c/1"]
    assert store.presence("payment").current == ["new", "old"]


def test_a_worker_that_is_silent_counts_as_gone_and_stays_known(rig):
    rig.store.report("payment", worker(version="1.4.2"), "declared", TTL)
    rig.pass_time(40)
    assert names(rig.store.workers("payment")) == ["payment@a/1"]
    rig.store.report("driver", worker("driver@a/1"), "declared", TTL)

    rig.pass_time(40)

    presence = rig.store.presence("payment")
    (one,) = presence.gone
    assert (one.version, one.is_alive) == ("1.4.2", False)
    assert presence.seen == one.seen > 0
    assert presence.current == ["declared"]
    assert names(rig.store.workers("driver")) == ["driver@a/1"]


def test_a_worker_that_ends_stays_known_until_the_next_one_of_its_node_lives(store):
    store.report("payment", worker("payment@a/1"), "declared", TTL)
    store.report("payment", worker("payment@b/1"), "declared", TTL)
    store.leave("payment", "payment@a/1")
    store.leave("payment", "nobody")

    presence = store.presence("payment")
    assert (names(presence.workers), names(presence.gone)) == (["payment@b/1"], ["payment@a/1"])

    store.report("payment", worker("payment@a/2"), "declared", TTL)

    presence = store.presence("payment")
    assert (names(presence.workers), names(presence.gone)) == (["payment@a/2", "payment@b/1"], [])


def test_the_programs_that_are_gone_are_bounded_and_so_are_their_descriptions(store):
    for number in range(MOST_GONE + 5):
        one = worker(f"payment@n{number:02}/1", digest=f"d-{number}")
        store.report("payment", one, f"declared {number}", TTL)
        store.leave("payment", one.name)

    presence = store.presence("payment")
    assert len(presence.gone) == len(presence.descriptions) == MOST_GONE


def test_a_service_that_was_not_seen_for_three_months_is_forgotten(rig):
    rig.store.report("shop", Program("publisher@a/1", "publisher@a", digest="d-1"), "declared", 0, ["order.placed"])
    rig.store.report("payment", worker(), "declared", TTL)
    rig.pass_time(SEEN_FOR - 50)
    rig.store.report("payment", worker(), "declared", TTL)
    assert rig.store.presence("shop").current == ["declared"]

    rig.pass_time(55)

    assert rig.store.presence("shop") == Presence([], [], {}, {})
    assert names(rig.store.workers("payment")) == ["payment@a/1"]


def test_a_program_without_a_worker_is_known_with_what_it_announces_and_is_no_worker(store):
    web = Program("publisher@a/1", "publisher@a", digest="d-1")

    store.report("shop", web, "declared", 0, ["order.placed"])
    store.report("shop", web, "declared", 0, ["order.cancelled"])

    presence = store.presence("shop")
    assert presence.workers == []
    assert not presence.gone[0].is_worker
    assert presence.current == ["declared"]
    assert list(presence.announced) == ["order.cancelled", "order.placed"]
    assert all(when > 0 for when in presence.announced.values())


def test_what_a_worker_declared_goes_before_what_a_program_that_only_publishes_knows(store):
    store.report("shop", worker("shop@a/1", digest="d-1"), "with handlers", TTL)
    store.leave("shop", "shop@a/1")
    store.report("shop", Program("publisher@a/1", "publisher@a", digest="d-2"), "without", 0)

    assert store.presence("shop").current == ["with handlers"]


def test_the_types_that_are_remembered_as_announced_are_bounded(store):
    web = Program("publisher@a/1", "publisher@a", digest="d-1")

    store.report("shop", web, "declared", 0, [f"a.b{number}" for number in range(MOST_SEEN + 5)])
    store.report("shop", web, "declared", 0, ["a.b1", "one.more"])

    announced = store.presence("shop").announced
    assert len(announced) == MOST_SEEN
    assert "one.more" not in announced


def test_the_services_are_those_of_all_handlers_and_other_queues(store):
    store.register(["payment.charge", "payment", "driver.assign"])
    store.presence("nobody")
    store.report("shop", Program("publisher@a/1", "publisher@a"), "declared", 0)

    assert store.services() == ["driver", "payment", "shop"]
    assert store.handlers() == ["driver.assign", "payment", "payment.charge"], "it has no queue"


def test_a_record_of_another_version_is_read_as_far_as_it_is_known():
    text = '{"node": "payment@a", "pid": "seven", "queues": ["q"], "paused": true, "since": 3, "version": "2"}'

    read = Program.from_json(text, name="n", seen=5.0, is_alive=True)

    assert read == Program("n", "payment@a", version="2", queues=("q",), since=3.0, seen=5.0, is_alive=True)
    assert Program.from_json("no JSON", name="n", seen=1.0, is_alive=False) == Program("n", "n", seen=1.0)


def test_what_another_program_has_written_there_is_left_out(redis_rig):
    store, client = redis_rig.store, redis_rig.client
    for name, text in {"a": "nonsense", "b": "1\n2", "c": "x\n1\nn\nd\n{}", "d": ""}.items():
        client.hset(f"{redis_rig.prefix}:{{payment}}:programs", name, text)
    client.hset(f"{redis_rig.prefix}:{{payment}}:announced", mapping={"order.placed": "soon", "a.b": "1000"})
    client.hset(f"{redis_rig.prefix}:{{payment}}:descriptions", "d", b"\xff")
    client.sadd(f"{redis_rig.prefix}:services", b"\xff", "payment")

    presence = store.presence("payment")
    assert (presence.workers, presence.gone, presence.announced) == ([], [], {"a.b": 1.0})
    assert "payment" in store.services()

    store.report("payment", worker(), "declared", TTL)
    assert names(store.workers("payment")) == ["payment@a/1"]

    program = Program("publisher/1", "publisher@a")
    store.report("payment", program, "declared", 0, ["order.paid"])
    assert list(store.presence("payment").announced) == ["order.paid"]
