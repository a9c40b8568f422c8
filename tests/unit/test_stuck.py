"""`choreo stuck` and `app.observe.stuck`: causes and next steps, on a store in memory and queues that a test fills."""

import json
from datetime import timedelta

import pytest
from click.testing import CliRunner, Result

from choreo import Service
from choreo.broker.depths import Depth
from choreo.cli import choreo
from choreo.delivery.dead_letter import DeadLetter, Reason
from choreo.events.message import Message
from choreo.observe.stuck import Stuck
from tests.unit.events import OrderPlaced, PaymentCharged
from tests.unit.test_top import ORDER, QUEUE, Queues, app, queues, stage, works  # noqa: F401 - fixtures


def run(*arguments: str, code: int) -> Result:
    result = CliRunner().invoke(choreo, ["stuck", *arguments])
    assert result.exit_code == code, result.output
    return result


def causes(app: Service) -> list[tuple[str, int, str]]:  # noqa: F811
    return [(one.what, one.count, one.cause) for one in app.observe.stuck()]


def test_nothing_is_stuck(stage, app):  # noqa: F811
    works(stage, QUEUE)

    assert run(code=0).output == "Nothing is stuck.\n"
    assert run("--json", code=0).output == ""


@pytest.mark.parametrize("options", [["stuck"], ["stuck", "--json"], ["top", "--once"], ["top", "--json"]])
def test_a_place_without_any_service_is_named_and_is_no_success(options):
    place = ["--broker", "memory://", "--store", "memory:", "--namespace", "nope"]
    result = CliRunner().invoke(choreo, [*place, *options, *(["--interval", "0"] if options[0] == "top" else [])])

    assert (result.exit_code, result.stdout) == (1, "")
    assert "No service is known at memory: (namespace 'nope')." in result.stderr


def test_no_worker_lives(stage, app, queues):  # noqa: F811
    queues.depths[QUEUE] = Depth(2, stage.store.now() - 600, "ORD-1")

    (found,) = app.observe.stuck()

    assert (found.what, found.count, found.cause, found.subjects) == (
        "payment.charge",
        2,
        "no worker lives",
        ("ORD-1",),
    )
    assert found.since == stage.store.now() - 600
    output = run(code=1).output
    first, second = output.splitlines()[1:3]
    assert first == "01-01 00:06:42  payment.charge      2  no worker lives (the last was seen 2.0 s"
    assert second.strip() == "ago): ORD-1, ..."
    assert "DO  celery -A ... worker   # of payment" in output


def test_no_worker_consumes_the_queue(stage, app, queues):  # noqa: F811
    works(stage, "payment.other")
    queues.depths[QUEUE] = Depth(1)

    assert causes(app) == [("payment.charge", 1, "no worker consumes its queue")]
    steps = "DO  start a worker without -Q, or:\n      celery -A ... control add_consumer payment.charge\n"
    assert run(code=1).output.endswith(steps)


def test_events_of_other_programs_that_no_worker_takes_over(stage, app, queues):  # noqa: F811
    works(stage, QUEUE)
    queues.depths["choreo.intake"] = Depth(3)

    assert causes(app) == [("choreo.intake", 3, "no worker takes them over")]
    assert "DO  set choreo_intake = True in a service, and start a worker of it" in run(code=1).output
    assert app.observe.top().troubles == ["choreo.intake: 3 waiting, no worker takes them over"]
    assert [one.what for one in app.observe.stuck("payment")] == []

    works(stage, QUEUE, "choreo.intake")
    assert causes(app) == []
    assert app.observe.top().intake.waiting == 3


def test_an_event_that_comes_back_again_and_again(stage, app, queues):  # noqa: F811
    works(stage, QUEUE)
    queues.depths[QUEUE] = Depth(5, stage.store.now(), "ORD-1", returned=3)

    assert causes(app) == [("payment.charge", 1, "comes back again and again")]


def test_a_service_that_has_stopped_tells_when_it_was_seen_and_how_to_start_it(stage, app, queues):  # noqa: F811
    works(stage, QUEUE, module="shop.payment")
    stage.wait(3600)
    queues.depths[QUEUE] = Depth(1)

    (found,) = app.observe.stuck()

    assert (found.cause, found.detail) == ("no worker lives", "the last was seen 60 min ago")
    assert found.do == ["celery -A shop.payment worker"]


def test_stories_that_are_past_their_deadline_are_told_from_joins(stage, app):  # noqa: F811
    app.story("delivery", begins=OrderPlaced, ends=PaymentCharged, within=timedelta(minutes=1))
    app.runtime.introduce()
    stage.deliver(ORDER, "payment.delivery", subject="ORD-7")
    works(stage, QUEUE, "payment.delivery")
    stage.wait(61)
    (key, _), *_ = stage.store.due("payment.delivery", 10, 1)
    stage.store.sent("payment.delivery", [key])
    stage.wait(20)
    works(stage, QUEUE, "payment.delivery")

    (found,) = app.observe.stuck()

    assert (found.cause, found.do) == ("stories overdue", ["choreo stories list payment.delivery"])


def test_a_backlog_that_is_worked_on_is_not_stuck(stage, app, queues):  # noqa: F811
    works(stage, QUEUE)
    queues.depths[QUEUE] = Depth(500, stage.store.now() - 3600)

    assert causes(app) == []


def test_dead_letters_since_the_first(stage, app):  # noqa: F811
    works(stage, QUEUE)
    stage.deliver(OrderPlaced(customer_id="alice", total_cents=13), id="one")
    first = stage.store.now()
    stage.wait(30)
    stage.deliver(OrderPlaced(customer_id="alice", total_cents=13), id="two")

    (found,) = app.observe.stuck()
    (group,) = app.dead_letters.groups()

    step = f"choreo dead-letters replay {group.id} --canary   # once the cause is mended"
    assert (found.since, found.count, found.do) == (first, 2, [step])
    assert f"DO  {step}\n" in run(code=1).output


def bury(stage, letter_id: str, error: str, *, has_card: bool = True) -> None:  # noqa: F811
    """A dead letter of payment.charge; without a card as an older choreo has recorded it."""
    letter = DeadLetter("payment", QUEUE, Reason.REFUSED, error, Message("", QUEUE, b""), id=letter_id)
    stage.store.add_letter(QUEUE, letter_id, letter.to_json(), card=letter.card if has_card else None)


def test_dead_letters_are_told_by_their_cause_since_the_first_of_each(stage, app):  # noqa: F811
    works(stage, QUEUE, seconds=600)
    first = stage.store.now()
    bury(stage, "older", "ValueError: an older one")
    for number in range(300):
        stage.wait(1)
        bury(stage, f"l-{number}", f"PermanentFailure: card {number} is frozen for good, and the bank is silent")

    frozen = "PermanentFailure: card # is frozen for good, and the bank is silent"
    assert [(one.since, one.count, one.detail) for one in app.observe.stuck()] == [
        (first, 1, "ValueError: an older one"),
        (first + 1, 300, frozen),
    ]
    short = "PermanentFailure: card # is frozen for good, and ..."
    assert app.observe.top().troubles == [f"payment.charge: new dead letters: {short}, and others"]


def test_the_most_frequent_error_of_the_new_letters_is_named(stage, app):  # noqa: F811
    works(stage, QUEUE, seconds=6000)
    for number in range(3):
        bury(stage, f"old-{number}", "TypeError: old")
    stage.wait(601)
    for number, error in enumerate(["KeyError: a", "ValueError: b", "ValueError: b"]):
        bury(stage, f"l-{number}", error)

    assert app.observe.top().troubles == ["payment.charge: new dead letters: ValueError: b, and others"]


def test_many_different_causes_are_few_rows(stage, app):  # noqa: F811
    works(stage, QUEUE, seconds=600)
    for kind in "ABCDEFGH":
        bury(stage, kind, f"{kind}Error: no")

    found = app.observe.stuck()

    assert sorted(one.count for one in found) == [1, 1, 1, 1, 1, 3]
    output = run(code=1).output
    assert "3  dead letters (various causes)" in output
    assert "DO  choreo dead-letters groups payment.charge\n" in output


def test_letters_of_an_older_choreo_are_one_row_and_nothing_is_written(stage, app):  # noqa: F811
    works(stage, QUEUE, seconds=600)
    first = stage.store.now()
    bury(stage, "old", "KeyError: a", has_card=False)
    stage.wait(1)
    bury(stage, "new", "ValueError: b")

    found = {one.detail: (one.since, one.count) for one in app.observe.stuck()}

    assert found == {"various causes": (first, 1), "ValueError: b": (first + 1, 1)}
    assert stage.store.unfiled(QUEUE) == ["old"]


@pytest.mark.parametrize(
    ("about", "count", "detail"),
    [
        ({"maxmemory": 100}, 0, "allkeys-lru evicts keys when its memory is full"),
        ({"maxmemory": 100, "evicted_keys": 9}, 9, "has evicted 9 keys"),
    ],
)
def test_a_server_that_evicts_keys(stage, app, monkeypatch, about, count, detail):  # noqa: F811
    told = {"maxmemory_policy": "allkeys-lru", **about}
    monkeypatch.setattr(stage.store, "servers", lambda: {"redis://db:6379/0": told})

    (found,) = app.observe.stuck()

    assert (found.what, found.count, found.cause, found.detail) == ("Redis db:6379/0", count, "eviction", detail)
    assert "redis-cli config set maxmemory-policy noeviction" in run(code=1).output
    assert app.observe.stuck("payment") == []


def test_a_policy_that_evicts_without_a_limit_is_a_note(stage, app, monkeypatch):  # noqa: F811
    monkeypatch.setattr(stage.store, "servers", lambda: {"redis://db:6379/0": {"maxmemory_policy": "allkeys-lru"}})

    result = run(code=0)

    assert "Nothing is stuck.\n" in result.stdout
    assert "Redis at db:6379/0: allkeys-lru evicts keys as soon as maxmemory is set." in result.stderr


def test_what_is_due_and_not_sent(stage, app):  # noqa: F811
    stage.deliver(OrderPlaced(customer_id="alice", total_cents=14))
    app.publish(ORDER, subject="ORD-9", delay=100)
    stage.wait(605)
    assert [(one.what, one.cause) for one in app.observe.stuck()] == [("delayed", "due, and no worker sends it")]

    stage.wait(10)

    assert causes(app) == [
        ("delayed", 1, "due, and no worker sends it"),
        ("payment.charge", 1, "due, and no worker sends it"),
    ]
    assert [one.what for one in app.observe.stuck("payment")] == ["payment.charge"]
    assert "delayed events" in run(code=1).output


def test_joins_that_are_past_their_deadline(stage, app):  # noqa: F811
    @app.join(OrderPlaced, PaymentCharged, within=timedelta(minutes=1))
    def ship(order: OrderPlaced, payment: PaymentCharged) -> None: ...

    app.runtime.introduce()
    stage.deliver(ORDER, "payment.ship", subject="ORD-7")
    works(stage, QUEUE, "payment.ship")
    stage.wait(61)
    (key, _), *_ = stage.store.due("payment.ship", 10, 1)
    stage.store.sent("payment.ship", [key])
    stage.wait(20)
    works(stage, QUEUE, "payment.ship")

    (found,) = app.observe.stuck()

    assert (found.what, found.count, found.cause, found.subjects) == ("payment.ship", 1, "joins overdue", ("ORD-7",))
    assert found.do == ["choreo joins list payment.ship"]


def test_only_what_is_older_is_shown(stage, app, queues):  # noqa: F811
    queues.depths[QUEUE] = Depth(2, stage.store.now() - 90)

    assert run("--older", "2m", code=0).output == "Nothing is stuck.\n"
    assert "no worker lives" in run("--older", "1m", code=1).output
    assert json.loads(run("--older", "30s", "--json", code=1).output)["cause"] == "no worker lives"
    assert "'soon' is no time. Write it like 30s, 10m, 2h or 1d." in run("--older", "soon", code=2).output


def test_a_time_without_a_unit_is_refused_with_the_forms_that_work():
    assert "'5' has no unit. Write 5s, 5m, 5h or 5d." in " ".join(run("--older", "5", code=2).output.split())


def test_a_pipe_gets_80_columns_and_whole_commands(stage, app, queues, monkeypatch):  # noqa: F811
    monkeypatch.setenv("COLUMNS", "80")
    stage.store.register(["notification.text_the_arrival"])
    works(stage, "payment.other", module="food_delivery.services.payment")
    queues.depths |= {QUEUE: Depth(1, returned=3), "notification.text_the_arrival": Depth(9, 10, "ORD-1")}
    error = "ValueError: " + "the provider has frozen the account of this platform for good"
    stage.store.add_letter("notification.text_the_arrival", "l-1", json.dumps({"error": error}))

    output = run(code=1).output.splitlines()

    command = "celery -A food_delivery.services.payment control add_consumer payment.charge"
    assert "DO  start a worker without -Q, or:" in output
    assert f"      {command}" in output
    assert [line for line in output if len(line) > 80 and command not in line] == []
    assert any("notification.text_the_arrival  " in line for line in output)


def test_a_long_name_is_whole_in_a_pipe(stage, app, queues):  # noqa: F811
    name = f"notification.{'very_' * 12}long"
    stage.store.register([name])
    queues.depths[name] = Depth(1)

    assert f"{name}      1  no worker lives" in run(code=1).output


@pytest.mark.parametrize("text", ["-1", "1x", "", "1e9d", "nan"])
def test_a_time_that_is_none_is_refused(text):
    assert "is no time" in run("--older", text, code=2).output


def test_what_waits_for_a_paused_handler_is_stuck_until_it_is_resumed(stage, app, queues):  # noqa: F811
    works(stage, QUEUE)
    queues.depths[QUEUE] = Depth(3, stage.store.now() - 60, "ORD-1")
    app.pauses.pause("payment.charge", reason="gateway down", who="alice@a")

    (found,) = app.observe.stuck()

    assert (found.count, found.cause, found.do) == (3, "paused", ["choreo resume payment.charge"])
    assert found.detail.endswith("UTC by alice@a: gateway down")
    app.pauses.pause("payment.charge", rate=5)
    assert causes(app) == []


def test_a_long_subject_is_not_broken(stage, app, monkeypatch):  # noqa: F811
    subject = f"ORD-{'0123456789-' * 4}"
    told = Stuck(1000.0, "payment.charge_the_customer", 1, "no worker lives", subjects=[subject])
    monkeypatch.setattr("choreo.observe.observer.Observer.stuck", lambda *_, **__: [told])

    assert subject in run(code=1).output
