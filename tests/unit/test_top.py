"""`choreo top` and `app.observe.top`, on a store in memory and queues that the test fills."""

import io
import json
from collections.abc import Sequence
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from choreo import PermanentFailure, RetryLater, Service, testing
from choreo.broker.depths import Depth
from choreo.cli import choreo
from choreo.cli.top import fitting
from choreo.declare.description import HandlerDescription, ServiceDescription
from choreo.observe.server import Server
from choreo.observe.top import Top
from choreo.store.presence import Program
from tests.unit.events import OrderPlaced, PaymentCharged
from tests.unit.stage import Stage, service

ORDER = OrderPlaced(customer_id="alice", total_cents=500)
QUEUE = "payment.charge"


class Queues:
    """The queues of a broker, as a test says they are."""

    def __init__(self) -> None:
        self.depths: dict[str, Depth] = {}
        self.error: Exception | None = None
        self.names: list[str] | None = ["", "staging"]
        self.is_open = True

    def look(self, queues: Sequence[str]) -> dict[str, Depth]:
        if self.error:
            raise self.error
        return {queue: self.depths[queue] for queue in queues if queue in self.depths}

    def namespaces(self) -> list[str] | None:
        return self.names

    def server(self) -> None:
        return None

    def close(self) -> None:
        self.is_open = False


@pytest.fixture
def app() -> Service:
    app = service("payment")

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> PaymentCharged:
        if order.total_cents == 13:
            raise PermanentFailure("refused")
        if order.total_cents == 14:
            raise RetryLater(600)
        return PaymentCharged(amount_cents=order.total_cents)

    return app


@pytest.fixture
def queues() -> Queues:
    return Queues()


@pytest.fixture
def stage(app: Service, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
    return watched(app, queues, monkeypatch)


def watched(app: Service, queues: Queues, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A stage whose service had a worker once, and whose queues are these."""
    stage, runtime = Stage(app), app.runtime
    runtime.introduce()
    works(stage, node="payment@gone", seconds=1)
    stage.wait(2)
    monkeypatch.setattr(
        runtime, "new_top", lambda: Top(stage.store, queues, runtime.queue_of, runtime.undeclared, namespace="")
    )
    runtime.__dict__.pop("observe", None)
    return stage


def works(stage: Stage, *consumed: str, node: str = "payment@one", seconds: float = 60, **about: Any) -> None:
    """A worker lives for so many seconds, and consumes these queues."""
    told = {"version": "1.4", "pool": "solo", "concurrency": 1, "since": stage.store.now(), **about}
    program = Program(f"{node}/1", node, queues=consumed, **told)
    stage.store.report("payment", program, "{}", seconds)


def state(app: Service, name: str = "payment.charge") -> Any:
    (found,) = [one for one in app.observe.top().handlers if one.name == name]
    return found


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(choreo, ["top", *arguments, "--interval", "0"])
    assert result.exit_code == code, result.output
    return result


def line(result: Result, start: str) -> list[str]:
    (found,) = [line for line in result.output.splitlines() if line.startswith(start)]
    return found.split()


def test_a_handler_at_rest_is_no_trouble(stage: Stage, app: Service):
    works(stage, QUEUE)

    found = state(app)

    assert (found.waiting, found.oldest, found.workers, found.pools, found.trouble) == (0, None, 1, ("solo",), "")
    assert app.observe.top().troubles == []


def test_an_event_that_waits_is_as_old_as_its_announcement(stage: Stage, app: Service, queues: Queues):
    works(stage, QUEUE)
    queues.depths[QUEUE] = Depth(3, stage.store.now() - 90, "ORD-1")

    found = state(app)

    assert (found.waiting, found.oldest, found.subject, found.trouble) == (3, 90.0, "ORD-1", "")


@pytest.mark.parametrize(
    ("consumed", "trouble", "shown"),
    [
        ((), "no worker of payment lives", "NONE"),
        (("payment.other",), "no worker consumes its queue", "NONE -Q"),
    ],
)
def test_messages_that_nobody_takes_are_trouble(stage, app, queues, consumed, trouble, shown):
    queues.depths[QUEUE] = Depth(1, stage.store.now())
    if consumed:
        works(stage, *consumed)

    assert state(app).trouble == trouble
    assert app.observe.top().troubles == [f"payment.charge: {trouble}"]
    result = run("--once", code=1)
    assert " ".join(line(result, "payment.charge")).endswith(shown)
    assert f"payment.charge: {trouble}" in result.output


def test_without_messages_a_stopped_service_is_no_trouble(stage: Stage, app: Service):
    assert line(run("--once"), "payment.charge")[-1] == "NONE"


def test_a_worker_of_an_older_choreo_counts_by_what_it_declares(stage: Stage, app: Service, queues: Queues):
    stage.store.register(["driver.assign"])
    stage.store.declare("driver", "driver@older", [("driver.assign", "order.placed")], 60)
    queues.depths["driver.assign"] = Depth(1)

    found = state(app, "driver.assign")
    assert (found.living, found.workers, found.trouble) == (1, 1, "")


def test_messages_for_a_handler_that_is_gone_are_trouble(stage: Stage, app: Service, queues: Queues):
    works(stage, QUEUE)
    stage.store.register(["payment.charge_once"])
    assert [one.name for one in app.observe.top().handlers] == ["payment.charge"]

    queues.depths["payment.charge_once"] = Depth(2)

    assert state(app, "payment.charge_once").trouble.startswith(
        "no worker declares it any more: choreo topology retire payment.ch"
    )
    assert line(run("--once", code=1), "payment.charge_once")[-1] == "GONE"


def test_rates_and_times_are_from_the_record(stage: Stage, app: Service, queues: Queues):
    works(stage, QUEUE)
    for number in range(30):
        stage.deliver(ORDER, id=f"event-{number}", correlation_id=f"story-{number}")
    queues.depths[QUEUE] = Depth(10)

    with_two_looks = app.observe.watch()
    with_two_looks.sample()
    stage.wait(10)
    queues.depths[QUEUE] = Depth(15)
    (found,) = with_two_looks.look().handlers

    assert found.outgoing == pytest.approx(0.5)
    assert found.incoming == pytest.approx(1.0)
    assert 0 <= found.p95 < 60
    assert found.clears_in == float("inf")
    stage.wait(60)
    assert state(app).outgoing == 0.0


def busy(stage: Stage, runs: int = 30) -> None:
    """A worker lives, and has made so many runs within the last minute."""
    works(stage, QUEUE, seconds=600)
    for number in range(runs):
        stage.deliver(ORDER, id=f"event-{number}", correlation_id=f"story-{number}")


def test_the_time_to_clear_follows_from_the_oldest_that_waits(stage: Stage, app: Service, queues: Queues):
    busy(stage)
    queues.depths[QUEUE] = Depth(10, stage.store.now() - 50)

    assert state(app).clears_in == pytest.approx(10 / 0.3)
    name, waiting, _, incoming, outgoing, _, clears_in, *others = line(run("--once"), "payment.charge")
    assert (name, waiting, incoming, outgoing, clears_in) == ("payment.charge", "10", "-", "0.5", "33s")
    assert others == ["0", "0", "1", "solo"]


@pytest.mark.parametrize(("oldest", "why"), [(10, "perhaps all came at once"), (None, "RabbitMQ does not tell")])
def test_the_time_to_clear_is_unknown_if_no_run_ended_between_two_looks(stage, app, queues, oldest, why):
    busy(stage)
    queues.depths[QUEUE] = Depth(400, oldest and stage.store.now() - oldest)
    looking = app.observe.watch()
    looking.sample()
    stage.wait(1)

    (found,) = looking.look().handlers

    assert (found.incoming, found.clears_in) == (None, None), why


def test_the_time_to_clear_follows_from_the_looks_of_the_last_minute(stage, app, queues):
    busy(stage)
    looking = app.observe.watch()
    seen = []
    for waiting in (400, 396, 396, 391, 391, 391):  # it does not change between each two looks
        queues.depths[QUEUE] = Depth(waiting)
        seen.append(looking.look().handlers[0].clears_in)
        stage.wait(3)

    assert seen[:3] == [None, None, None]
    assert seen[3:] == [pytest.approx(391 / (9 / seconds)) for seconds in (9, 12, 15)]


def test_two_looks_that_are_minutes_apart_tell_the_growth(stage, app, queues):
    works(stage, QUEUE, seconds=600)
    looking = app.observe.watch()
    queues.depths[QUEUE] = Depth(400)
    looking.sample()
    stage.wait(110)
    busy(stage)
    queues.depths[QUEUE] = Depth(180)
    stage.wait(10)

    assert looking.look().handlers[0].clears_in == pytest.approx(180 / (220 / 120))


def test_a_new_dead_letter_is_trouble_for_ten_minutes(stage: Stage, app: Service):
    works(stage, QUEUE)
    stage.deliver(OrderPlaced(customer_id="alice", total_cents=13))

    assert state(app).trouble == "new dead letters: PermanentFailure: refused"
    stage.wait(601)
    works(stage, QUEUE)
    assert (state(app).trouble, state(app).dead_letters) == ("", 1)


def test_what_falls_due_is_told_by_kind(stage: Stage, app: Service):
    works(stage, QUEUE)
    stage.deliver(OrderPlaced(customer_id="alice", total_cents=14))
    app.publish(ORDER, subject="ORD-9", delay=1200)
    app.publish(ORDER, subject="ORD-9", delay=7200)

    coming = app.observe.top().coming

    assert (coming.retries, coming.deadlines, coming.delayed, coming.first) == (1, 0, 1, "payment.charge")
    assert "1 retry, 1 delayed event (first 00:26:42 UTC, payment.charge)" in " ".join(line(run("--once"), "NEXT HOUR"))


def test_a_message_that_nobody_sends_is_trouble(stage: Stage, app: Service):
    works(stage, QUEUE)
    stage.deliver(OrderPlaced(customer_id="alice", total_cents=14))
    stage.wait(650)
    works(stage, QUEUE)

    assert state(app).trouble == "a message is due since 50 s, and no worker sends it"


def test_a_delayed_event_that_nobody_sends_is_trouble_without_any_handler_too(stage, app, monkeypatch):
    app.publish(ORDER, subject="ORD-9", delay=100)
    monkeypatch.setattr(stage.store, "handlers", list)
    assert line(run("--once"), "delayed events")[-2:] == ["1", "-"]

    stage.wait(150)

    trouble = "delayed events: a message is due since 50 s, and no worker sends it"
    found = json.loads(run("--json", code=1).output)
    assert (found["troubles"], found["delayed"]["due"]) == ([trouble], 1)
    output = run("--once", code=1).output
    assert f"TROUBLE     {trouble}" in output
    assert "1 message is overdue" in output


def test_several_versions_of_one_service_are_told(stage: Stage, app: Service):
    works(stage, QUEUE, node="payment@one", version="1.4.1")
    stage.wait(45)
    works(stage, QUEUE, node="payment@two", version="1.4.2")

    assert [(one.version, one.workers) for one in app.observe.top().versions] == [("1.4.2", 1), ("1.4.1", 1)]
    stage.wait(10)
    assert (
        " ".join(line(run("--once"), "VERSIONS"))
        == "VERSIONS payment 1.4.2 x1 (started 10 s ago), 1.4.1 x1 (started 55 s ago)"
    )


def handlers(*declared: tuple[str, str]) -> ServiceDescription:
    return ServiceDescription(
        "payment", tuple(HandlerDescription(f"payment.{name}", (heard,)) for name, heard in declared)
    )


def test_versions_that_handle_one_event_twice_are_named_with_their_nodes_and_handlers(stage: Stage, app: Service):
    older = handlers(("charge", "order.placed"), ("refund", "order.rejected"))
    newer = handlers(("charge_customer", "order.placed"), ("refund", "order.rejected"))
    for node, version, described in (("payment@one", "1.4", older), ("payment@two", "1.5", newer)):
        stage.store.report(
            "payment",
            Program(f"{node}/1", node, version=version, pool="solo", queues=(QUEUE,), digest=described.digest),
            described.to_json(),
            60,
        )

    trouble = "payment: order.placed runs payment.charge and payment.charge_customer, of different live versions"
    assert app.observe.top().troubles == [trouble]
    said = " ".join(run("--once", code=1).output.split())
    assert (
        "DIVIDED payment (1.4 on payment@one: only payment.charge; 1.5 on payment@two: only payment.charge_customer)"
        in said
    )
    (stuck,) = app.observe.stuck()
    assert (stuck.what, stuck.cause, stuck.detail) == ("payment", "live versions handle one event twice", trouble)
    (service,) = app.observe.map().services
    assert service.division == app.observe.top().divided[0].text


def test_a_version_that_only_adds_a_handler_is_no_trouble(stage: Stage, app: Service):
    older, newer = handlers(("charge", "order.placed")), handlers(("charge", "order.placed"), ("note", "order.placed"))
    for node, described in (("payment@one", older), ("payment@two", newer)):
        told = Program(f"{node}/1", node, pool="solo", queues=(QUEUE,), digest=described.digest)
        stage.store.report("payment", told, described.to_json(), 60)

    found = app.observe.top()

    assert found.troubles == []
    assert [side.only for side in found.divided[0].sides] == [(), ("payment.note",)]


def test_versions_are_told_of_services_that_run_several(stage: Stage, app: Service):
    works(stage, QUEUE)
    assert line(run("--once"), "VERSIONS") == ["VERSIONS", "one", "version", "each"]

    stage.store.register(["driver.assign"])
    works(stage, QUEUE, node="payment@two", version="1.5")
    stage.store.report("driver", Program("driver@one/1", "driver@one", version="3"), "{}", 60)

    assert "driver 3" not in " ".join(line(run("--once"), "VERSIONS"))


def test_prose_is_wrapped_in_a_pipe_as_well(stage, app, queues, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    works(stage, QUEUE)
    queues.names = [f"staging-{number}" for number in range(20)]
    queues.error = OSError("the connection was refused, " * 5)

    output = run("--once", code=1).output.splitlines()

    assert all(len(line) <= 80 for line in output)
    assert sum("staging-" in line for line in output) > 1


def test_a_broker_that_does_not_answer_is_trouble_and_the_rest_is_shown(stage: Stage, app: Service, queues: Queues):
    works(stage, QUEUE)
    queues.error = OSError("connection refused")

    result = run("--once", code=1)

    assert line(result, "payment.charge")[1] == "-"
    assert "the broker does not answer: connection refused" in result.output


def test_events_that_nobody_heard_are_told_for_a_day(stage: Stage, app: Service):
    works(stage, QUEUE)
    stage.store.note_unheard("shopfront", {"orders.placed": 3})
    stage.wait(120)

    assert " ".join(line(run("--once"), "UNHEARD")) == "UNHEARD orders.placed from shopfront: 3x, the last 2 min ago"
    stage.wait(86_400)
    assert "UNHEARD" not in run("--once").output


def test_a_test_of_a_service_can_look_as_well(app: Service):
    with testing.stage(app) as platform:
        app.runtime.introduce()
        platform.publish(OrderPlaced(customer_id="alice", total_cents=13), subject="ORD-1")
        waiting = state(app)
        assert (waiting.waiting, waiting.subject, waiting.workers, waiting.trouble) == (1, "ORD-1", 1, "")
        platform.run()

        (found,) = app.observe.stuck()
        assert (found.what, found.cause) == ("payment.charge", "dead letters")


def test_a_loop_is_trouble(stage: Stage, app: Service):
    works(stage, QUEUE)

    @app.on(PaymentCharged, name="again")
    def again(payment: PaymentCharged) -> OrderPlaced | None:
        return ORDER if len(stage.events) < 120 else None

    app.conf.choreo_max_hops = 0

    stage.publish(ORDER, subject="ORD-1")
    stage.run()

    (loop,) = app.observe.top().loops
    assert (loop.subject, loop.types) == ("ORD-1", ("order.placed", "payment.charged"))
    assert loop.events > 100
    assert "ORD-1 is in a loop of order.placed, payment.charged" in app.observe.top().troubles


def test_a_loop_that_was_ended_names_its_dead_letter(stage: Stage, app: Service):
    works(stage, QUEUE)

    @app.on(PaymentCharged, name="again")
    def again(payment: PaymentCharged) -> OrderPlaced:
        return ORDER

    stage.publish(ORDER, subject="ORD-1")
    stage.run()

    (letter,) = stage.dead_letters
    assert [loop.letter for loop in app.observe.top().loops] == [letter.id]
    ended = f"order.placed, payment.charged, which ended as dead letter {letter.id}"
    assert f"ORD-1 was in a loop of {ended}" in app.observe.top().troubles
    said = " ".join(run("--once", code=1).output.split())
    assert f"order.placed <-> payment.charged, ended as dead letter {letter.id}" in said


def test_an_order_of_many_items_is_no_loop(stage: Stage, app: Service):
    works(stage, QUEUE)
    for number in range(100):
        stage.deliver(ORDER, id=f"event-{number}", correlation_id="story")

    assert app.observe.top().loops == []


def test_json_holds_everything_and_the_exit_code_is_that_of_once(stage: Stage, app: Service, queues: Queues):
    queues.depths[QUEUE] = Depth(1, stage.store.now() - 5, "ORD-1")

    found = json.loads(run("--json", code=1).output)

    (handler,) = found["handlers"]
    assert (handler["name"], handler["waiting"], handler["oldest"]) == ("payment.charge", 1, 5.0)
    assert found["troubles"] == ["payment.charge: no worker of payment lives"]
    assert found["namespaces"] == ["", "staging"]


def test_only_the_named_services_and_handlers_are_shown(stage: Stage, app: Service, queues: Queues):
    stage.store.register(["driver.assign"])

    assert "driver.assign" not in run("payment").output
    assert "payment.charge" not in run("driver.assign").output
    assert "No service or handler named 'paymnt' is known. Did you mean payment?" in run("paymnt", code=1).output


def test_a_pipe_gets_one_plain_screen_in_which_nothing_is_cut(stage: Stage, app: Service, queues: Queues):
    works(stage, QUEUE)
    assert all(len(line) <= 80 for line in run().output.splitlines())

    stage.store.register(["notification.text_the_arrival_of_an_order"])
    queues.depths[QUEUE] = Depth(123_456, stage.store.now() - 3_000_000)

    result = run()

    assert result.output.splitlines()[0].split()[0] == "HANDLER"
    assert "\x1b" not in result.output
    assert line(result, "payment.charge")[1:3] == ["123k", "35d"]
    assert "notification.text_the_arrival_of_an_order" in result.output


@pytest.mark.parametrize("height", [4, 12, 20, 40])
def test_a_live_screen_is_never_cut_without_a_sign(stage, app, queues, height):
    stage.store.register([f"driver.handler_{number}" for number in range(20)])
    queues.depths[QUEUE] = Depth(3)
    terminal = Console(width=80, height=height, file=io.StringIO())

    terminal.print(fitting(app.observe.top()), end="")

    output = terminal.file.getvalue().splitlines()
    assert len(output) <= height
    assert output[0].rstrip() == "TROUBLE     payment.charge: no worker of payment lives"
    assert ("20 more are idle" in "\n".join(output)) == (height in (12, 20))
    assert output[-1].split()[0] == ("…" if height == 4 else "NEXT")


def test_a_small_screen_tells_how_many_troubles_it_leaves_out(stage, app, queues):
    names = [f"driver.handler_{number}" for number in range(20)]
    stage.store.register(names)
    queues.depths |= {name: Depth(1) for name in names}
    terminal = Console(width=80, height=20, file=io.StringIO())

    terminal.print(fitting(app.observe.top()), end="")

    assert "TROUBLE     15 more: choreo top --once" in terminal.file.getvalue()


def test_nothing_is_left_open(stage: Stage, app: Service, queues: Queues):
    app.observe.top()

    assert not queues.is_open


def test_a_redis_that_may_lose_or_refuse_is_trouble():
    fine = {"used_memory": 10, "maxmemory": 100, "maxmemory_policy": "noeviction", "evicted_keys": 0, "aof_enabled": 1}

    def trouble(**told: Any) -> str:
        return Server.of("redis", fine | told).trouble

    assert trouble() == ""
    assert trouble(used_memory=95) == "95% of its memory is used"
    assert trouble(evicted_keys=2145) == "has evicted 2,145 keys"
    assert trouble(maxmemory_policy="allkeys-lru") == "may evict: maxmemory-policy is allkeys-lru"
    assert trouble(maxmemory_policy="allkeys-lru", maxmemory=0) == ""
    assert trouble(aof_last_write_status="err") == "writing the AOF failed"
    assert Server.of("redis", {}).trouble == ""


def test_a_policy_that_evicts_is_told_without_a_limit_and_is_trouble_with_one(stage, app, monkeypatch):
    told = {"used_memory": 10, "maxmemory": 0, "maxmemory_policy": "allkeys-lru", "evicted_keys": 0}
    monkeypatch.setattr(stage.store, "servers", lambda: {"redis://db:6379/0": told})

    output = " ".join(run("--once").output.split())

    assert "REDIS db:6379/0: 10 B, no limit, allkeys-lru, which evicts keys as soon as maxmemory is set" in output
    told["maxmemory"] = 100
    assert "may evict: maxmemory-policy is allkeys-lru" in " ".join(run("--once", code=1).output.split())


def test_a_replica_that_is_behind_is_told():
    told = {"master_repl_offset": 1000, "slave0": {"offset": 900}, "slave1": {"offset": 400}}

    assert (Server.of("redis", told).replicas, Server.of("redis", told).lag) == (2, 600)


def test_a_paused_handler_has_no_time_to_clear_its_queue(stage: Stage, app: Service, queues: Queues):
    busy(stage)
    queues.depths[QUEUE] = Depth(10, stage.store.now() - 50)
    assert state(app).clears_in

    app.pauses.pause("payment.charge", rate=5)
    assert state(app).clears_in
    app.pauses.pause("payment.charge")
    assert state(app).clears_in is None


def test_a_pause_is_shown_with_who_and_why_and_is_no_trouble(stage: Stage, app: Service, queues: Queues):
    works(stage, QUEUE)
    queues.depths[QUEUE] = Depth(3, stage.store.now())
    app.pauses.pause("payment.charge", 600, reason="gateway down", who="alice@a")

    result = run("--once")

    assert line(result, "payment.charge")[-1] == "PAUSED"
    told = " ".join(result.output.split())
    assert "PAUSED payment.charge is paused since 1970-01-01 00:16:4" in told
    assert "by alice@a: gateway down; `choreo resume payment.charge` ends it earlier" in told
    pause = json.loads(run("--json").output)["handlers"][0]["pause"]
    assert (pause["reason"], pause["rate"]) == ("gateway down", None)

    app.pauses.pause("payment.charge", rate="10/m")
    result = run("--once")
    assert line(result, "payment.charge")[-1] == "10/m"
    assert line(result, "SLOWED")[:5] == ["SLOWED", "payment.charge", "is", "slowed", "to"]


def test_a_paused_handler_whose_service_is_stopped_is_trouble(stage: Stage, app: Service, queues: Queues):
    queues.depths[QUEUE] = Depth(3, stage.store.now())
    app.pauses.pause("payment.charge")

    assert state(app).trouble == "no worker of payment lives"
