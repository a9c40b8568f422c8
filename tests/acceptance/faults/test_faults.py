"""Each fault that an operator was tried with: one command, given the order's id, names its cause and the next step."""

import re
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from choreo.local.server import EmbeddedServer
from tests.acceptance.faults.conftest import PACKAGE, Shop, platform_of, service
from tests.acceptance.faults.services.making import outage_of
from tests.acceptance.faults.services.words import (
    AlarmSilenced,
    ArrivalNoted,
    MealOrdered,
    OrderPlaced,
    OrdersPlaced,
    ParcelPlaced,
    PointsEarned,
    RefusalNoted,
    ReminderSent,
    StockChanged,
    TicketBooked,
    TripBooked,
    TripCancelled,
    VoucherBought,
)
from tests.waiting import eventually

#: The effects of an order that went well.
DELIVERED = "restaurant confirmed", "payment charged", "driver assigned"


def replay_in(said: str) -> str:
    """The dead letter that a command says to replay."""
    (letter,) = set(re.findall(r"choreo dead-letters replay ([0-9a-f]{10})", said))
    return str(letter)


def test_a_the_service_of_a_handler_is_not_running(shop: Shop, subject: str) -> None:
    shop.publish(ParcelPlaced(), subject)

    said = shop.sees("trace", subject, words="OPEN driver.send_parcel waits for parcel.paid until")

    assert f"{subject} STUCK for" in said
    assert "no worker of depot lives (the last, depot@" in said
    assert "depot.take_money 1st of " in said
    assert "DO celery -A tests.acceptance.faults.services.depot worker" in said
    why = shop.choreo("why-not", "parcel.sent", subject)
    assert "CAUSE no worker of depot lives" in why
    assert "DO celery -A tests.acceptance.faults.services.depot worker" in why
    assert shop.effects(subject) == {}

    with shop.running("depot"):
        shop.becomes(subject, "depot paid", "driver sent")


def test_a_on_rabbitmq_whose_queues_cannot_be_looked_into(rabbit: Shop, subject: str) -> None:
    rabbit.publish(ParcelPlaced(), subject)

    said = rabbit.sees("trace", subject, words="OPEN driver.send_parcel waits for parcel.paid until")

    assert "no worker of depot lives (the last, depot@" in said
    assert "DO celery -A tests.acceptance.faults.services.depot worker" in said
    assert "CAUSE no worker of depot lives" in rabbit.choreo("why-not", "parcel.sent", subject)

    with rabbit.running("depot"):
        rabbit.becomes(subject, "depot paid", "driver sent")


def test_b_a_handler_raises_for_one_order(shop: Shop, subject: str) -> None:
    shop.publish(OrderPlaced(fault="no menu"), subject)

    said = shop.sees("trace", subject, words="DEAD LETTER [0-9a-f]{10}")

    assert "restaurant.answer_order failed for good: KeyError: 'menu 7' (exhausted, dead letter " in said
    shop.mend(subject)
    shop.choreo("dead-letters", "replay", replay_in(said))
    shop.becomes(subject, *DELIVERED)


def test_c_a_join_waits_for_an_event_that_a_handler_did_not_announce(shop: Shop, subject: str) -> None:
    shop.publish(OrderPlaced(fault="forgotten"), subject)
    shop.sees("trace", subject, words="OPEN driver.assign_driver waits for payment.charged")

    said = shop.sees("why-not", "driver.assigned", subject, words="CAUSE payment.charge_customer handled order.placed")

    assert "and announced nothing." in said
    assert "choreo publish payment.charged --caused-by " in said
    assert "payment.charge_customer handled order.placed" in shop.choreo("trace", subject).partition("TIME")[0]
    shop.mend(subject)
    shop.choreo("rerun", "payment.charge_customer", subject, "--yes")
    shop.becomes(subject, *DELIVERED)


def test_c_an_event_is_announced_by_hand_in_the_story_of_its_cause(shop: Shop, subject: str) -> None:
    placed = shop.publish(OrderPlaced(fault="forgotten"), subject)
    shop.sees("trace", subject, words="OPEN driver.assign_driver waits for payment.charged")

    shop.choreo("publish", "payment.charged", "--caused-by", placed.id, "--package", PACKAGE)
    shop.becomes(subject, "restaurant confirmed", "driver assigned")

    assert shop.choreo("trace", placed.correlation_id).count("driver.assigned") == 1


def test_c_a_join_waits_for_the_event_of_a_dead_letter(shop: Shop, subject: str) -> None:
    shop.publish(OrderPlaced(fault="frozen"), subject)
    shop.sees("trace", subject, words="OPEN driver.assign_driver waits for payment.charged")

    said = shop.sees("why-not", "driver.assigned", subject, words="CAUSE payment.charge_customer failed for good")

    assert "the provider has frozen this account (refused, dead letter" in said
    shop.mend(subject)
    shop.choreo("dead-letters", "replay", replay_in(said))
    shop.becomes(subject, *DELIVERED)


def test_d_a_join_was_cancelled(shop: Shop, subject: str) -> None:
    shop.publish(OrderPlaced(fault="refused"), subject)

    said = shop.sees("trace", subject, words="done in .*driver.assign_driver was cancelled by payment.failed")

    assert "payment.failed" in said
    assert "CAUSE driver.assign_driver was cancelled by payment.failed at" in shop.choreo(
        "why-not", "driver.assigned", subject
    )

    shop.mend(subject)
    shop.choreo("rerun", "payment.charge_customer", subject, "--new-key", "--yes")
    shop.sees("trace", subject, words="payment.charged")
    shop.choreo("rerun", "driver.assign_driver", subject, "--yes")
    shop.sees("why-not", "driver.assigned", subject, words="CAUSE nothing: driver.assigned was announced")
    shop.becomes(subject, *DELIVERED)


def test_e_an_event_kills_its_worker(shop: Shop, subject: str) -> None:
    shop.publish(MealOrdered(fault="explodes"), subject)

    said = shop.sees("trace", subject, words=r"STUCK for .*(its worker died each time|dead letter [0-9a-f]{10})")

    assert "kitchen.cook" in said
    said = shop.sees("trace", subject, words=r"\(poison, dead letter [0-9a-f]{10}\)")
    assert "signal 9 (SIGKILL)" in said
    (letter,) = re.findall(r"choreo dead-letters show ([0-9a-f]{10})", said)

    shop.choreo("dead-letters", "discard", letter, "--yes")
    shop.publish(MealOrdered(), f"{subject}-next")
    shop.becomes(f"{subject}-next", "kitchen cooked")
    assert shop.effects(subject) == {}


def test_f_a_slow_service_has_a_long_queue(shop: Shop, subject: str, tmp_path: Path) -> None:
    for number in range(30):
        shop.publish(ArrivalNoted(), f"{subject}-{number}")

    said = shop.choreo("trace", f"{subject}-29")

    assert "waiting: it is" in said
    assert "in the queue of texting.text_arrival" in said
    assert "which 1 worker consumes" in said
    with ExitStack() as stack:
        second = platform_of(stack, (shop.broker_url, shop.store_url, shop.namespace), tmp_path, data=shop.data)
        second.worker_options = ("--pool", "solo", "-n", "second", "-Q", f"{shop.namespace}.texting.text_arrival")
        second.start("texting")
        second.wait_ready()
        orders = [f"{subject}-{number}" for number in range(30)]
        eventually(lambda: all("done in" in shop.choreo("trace", order) for order in orders[-3:]))
        eventually(lambda: shop.effects(*orders).total() >= 30)
        helped = second.log("texting").read_text().count("texting.text_arrival(arrival.noted")
    assert shop.effects(*orders) == {"texting texted": 30}
    assert helped > 0


def test_g_a_type_that_only_a_wildcard_hears(shop: Shop, subject: str) -> None:
    shop.publish(OrdersPlaced(), subject)
    shop.sees("trace", subject, words=r"open: only patterns hear orders\.placed; order\.placed\?")

    said = shop.choreo("why-not", "order.placed", subject)

    # Whether order.placed was announced before depends on the tests that ran before.
    assert re.search(r"orders\.placed( was announced at [0-9:]+)?: a misspelling of it\?", said)
    assert "orders.placed" in shop.sees("map", words="orders.placed.*order.placed")

    shop.choreo("publish", "order.placed", "--subject", subject, "--package", PACKAGE)
    shop.sees("trace", subject, words="driver.assigned")
    eventually(lambda: shop.effects(subject) == Counter(DELIVERED))


def test_h_many_dead_letters_of_one_cause(shop: Shop, subject: str) -> None:
    for number in range(20):
        shop.publish(PointsEarned(currency="XXX"), f"{subject}-{number}")

    shop.sees("stuck", words=r"payment.award_points +[0-9]+ .*dead letters", code=None)
    said = shop.sees("trace", f"{subject}-19", words="DEAD LETTER")

    assert "payment.award_points failed for good: PermanentFailure: unknown currency XXX" in said
    orders = [f"{subject}-{number}" for number in range(20)]
    groups = shop.sees("dead-letters", words=r"[0-9a-f]{4,} +20 .*payment.award_points")
    (group,) = re.findall(r"([0-9a-f]{4,16}) 20 ", groups)
    shop.mend(*orders)
    told = shop.choreo("dead-letters", "replay", group, "--canary", "--rate", "100/s", "--yes")
    assert "20 of 20" in told
    eventually(lambda: shop.effects(*orders).total() >= 20)
    for order in orders[::6]:
        shop.becomes(order, "payment awarded")
    assert shop.effects(*orders) == {"payment awarded": 20}
    assert "payment.award_points" not in shop.choreo("dead-letters", code=None)


def test_i_an_event_in_the_wrong_namespace(shop: Shop, subject: str) -> None:
    elsewhere = f"{shop.namespace}x"
    wrong = service(shop.broker_url, shop.store_url, elsewhere)
    # In the right namespace nobody has ever announced this type.
    wrong.publish(VoucherBought(), subject)
    assert wrong.runtime.sightings is not None
    wrong.runtime.sightings.flush(30)

    said = shop.choreo("why-not", "voucher.bought", subject)

    assert f"in the namespace '{elsewhere}'" in said
    assert f"choreo --namespace {elsewhere} map" in said

    shop.choreo("publish", "voucher.bought", "--subject", subject, "--package", PACKAGE)
    shop.becomes(subject, "analytics noted")


def test_j_a_retry_in_twenty_minutes(shop: Shop, subject: str) -> None:
    shop.publish(OrderPlaced(fault="night"), subject)

    # The restaurant may still have the order in hand.
    due = "waiting: attempt 2 of 6 of payment.charge_customer is due in 20 min"
    said = shop.sees("trace", subject, words=due)

    assert "attempt 2 in 20 min" in said
    shop.mend(subject)
    shop.choreo("schedule", "now", subject, "--reason", "the bank is open again")
    shop.becomes(subject, *DELIVERED)


def test_k_two_versions_of_a_service_at_once(shop: Shop, subject: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        second = platform_of(stack, (shop.broker_url, shop.store_url, shop.namespace), tmp_path, "1.4.2", shop.data)
        second.start("analytics")
        second.wait_ready()

        said = shop.sees("top", "--once", words=r"VERSIONS .*1\.4\.2", code=None)

        assert "1.4.1" in said
        assert "1.4.2" in said
        with shop.without("analytics"):
            shop.sees("top", "--once", words="VERSIONS one version each", code=None)
            shop.publish(ReminderSent(), subject)
            shop.becomes(subject, "analytics reminded")


def test_l_the_server_evicts_keys() -> None:
    with EmbeddedServer() as server:
        app = service(server.url, server.url, "lone")
        app.runtime.introduce()
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "64mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
        lone = Shop(server.url, server.url, "lone", app, None, Path())  # type: ignore[arg-type]

        assert "allkeys-lru" in lone.choreo("top", "--once", code=1)

        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory-policy", "noeviction")
        assert "allkeys-lru" not in lone.choreo("top", "--once", code=None)


def test_m_a_loop_between_two_services(shop: Shop, subject: str) -> None:
    shop.publish(StockChanged(left=80), subject)

    said = shop.sees("top", "--once", words=f"LOOPS.*{subject}", code=None)

    assert "price.changed" in said
    assert "stock.changed" in said
    assert "events in a loop of price.changed <-> stock.changed" in shop.sees(
        "trace", subject, words="events in a loop"
    )


@pytest.mark.parametrize("broker", ["shop", "rabbit"])
def test_m_a_loop_ends_by_itself(request: pytest.FixtureRequest, broker: str, subject: str) -> None:
    shop: Shop = request.getfixturevalue(broker)
    shop.publish(StockChanged(left=10_000), subject)

    said = shop.sees("trace", subject, words="dead letter [0-9a-f]{10}")

    circle = "price.changed -> stock.changed -> price.changed"
    assert f"LoopError: {circle}: 101 events in a row have caused each other" in said
    assert "(loop, dead letter " in said
    assert "ended as dead letter" in shop.sees("top", "--once", words=f"LOOPS.*{subject}", code=None)
    (letter,) = re.findall(r"loop, dead letter ([0-9a-f]{10})", said)
    shop.choreo("dead-letters", "discard", letter, "--yes")
    shop.sees("trace", subject, words="done in")
    assert shop.effects(subject).total() == 101


def test_n_a_worker_that_consumes_one_queue_of_two(shop: Shop, subject: str) -> None:
    queue = f"{shop.namespace}.texting.text_refusal"
    # A worker with -Q makes the bindings of the queues that it does not consume a little later.
    with redis.Redis.from_url(shop.broker_url) as client:
        table = f"_kombu.binding.{shop.namespace}.choreo.events"
        eventually(lambda: any(name.endswith(queue.encode()) for name in client.smembers(table)))
    shop.publish(RefusalNoted(), subject)

    said = shop.sees("trace", subject, words="no worker consumes")

    assert f"no worker consumes the queue {queue}: 1 worker of texting lives" in said
    assert f"celery -A tests.acceptance.faults.services.texting control add_consumer {queue}" in said
    consume_meanwhile(shop, queue, subject)


def test_n_on_rabbitmq(rabbit: Shop, subject: str) -> None:
    queue = f"{rabbit.namespace}.texting.text_refusal"
    rabbit.publish(RefusalNoted(), subject)

    said = rabbit.sees("why-not", "refusal.noted", subject, words="CAUSE")

    assert "refusal.noted" in said
    assert queue in rabbit.choreo("map")
    consume_meanwhile(rabbit, queue, subject)


def consume_meanwhile(shop: Shop, queue: str, subject: str) -> None:
    """Let the worker consume the queue until this order is texted."""
    shop.celery("texting", "control", "add_consumer", queue)
    shop.becomes(subject, "texting texted")
    shop.celery("texting", "control", "cancel_consumer", queue)


def test_o_a_delayed_event_and_no_worker(shop: Shop, subject: str, tmp_path: Path) -> None:
    app = service(shop.broker_url, shop.store_url, f"{shop.namespace}o")
    app.publish(ReminderSent(), subject, delay=1200)
    lonely = Shop(shop.broker_url, shop.store_url, f"{shop.namespace}o", app, shop.platform, tmp_path)

    said = lonely.choreo("trace", subject)

    assert "reminder.sent is due in 20 min" in said
    assert "no worker of any service lives" in said
    assert "DO # start a worker of any service" in said

    app.publish(ReminderSent(), f"{subject}-soon", delay=0.1)
    with ExitStack() as stack:
        place = lonely.broker_url, lonely.store_url, lonely.namespace
        platform = platform_of(stack, place, tmp_path)
        platform.start("analytics")
        platform.wait_ready()
        lonely.becomes(f"{subject}-soon", "analytics reminded")
        assert lonely.effects(subject) == {}
        lonely.choreo("schedule", "now", subject)
        lonely.becomes(subject, "analytics reminded")


def test_p_an_outage_makes_dead_letters_of_everything(shop: Shop, subject: str) -> None:
    for number in range(5):
        shop.publish(OrderPlaced(fault="outage"), f"{subject}-{number}")

    said = shop.sees("trace", f"{subject}-4", words="STUCK")

    assert "no route to payments.example.com" in said
    shop.sees("stuck", words=r"payment.charge_customer +[0-9]+ .*dead letters", code=None)


def test_p_an_outage_with_a_pause_makes_no_dead_letters(shop: Shop, subject: str) -> None:
    orders = [f"{subject}-{number}" for number in range(5)]
    shop.choreo("pause", "payment.charge_customer", "--for", "10m", "--reason", "no route to payments.example.com")
    try:
        for order in orders:
            shop.publish(OrderPlaced(fault="outage"), order)
        said = shop.sees("trace", orders[-1], words="OPEN driver.assign_driver waits for payment.charged")
        assert "payment.charge_customer is paused" in said
        assert "no route to payments.example.com" in said
        shop.mend(*orders)
    finally:
        shop.choreo("resume", "payment.charge_customer")
    for order in orders:
        shop.becomes(order, *DELIVERED)


@pytest.mark.parametrize("broker", ["shop", "rabbit"])
def test_p_an_outage_with_a_breaker_makes_no_dead_letters(
    request: pytest.FixtureRequest, broker: str, subject: str
) -> None:
    """An outage of ten minutes, shortened: without the breaker an order has no attempts left after half a second."""
    shop: Shop = request.getfixturevalue(broker)
    handler, orders = "payment.charge_ticket", [f"{subject}-{number}" for number in range(20)]
    outage_of(shop.data).touch()
    began = time.monotonic()
    try:
        for order in orders:
            shop.publish(TicketBooked(), order)
        shop.sees("top", "--once", words=f"PAUSED {handler} is paused since .* by its breaker", code=None)
        # RabbitMQ tells nothing of what waits in its queues.
        said = shop.sees("trace", orders[0], words="paused", code=None)
        assert "no route to payments.example.com" in said
        eventually(lambda: time.monotonic() > began + 6, reason="an outage of many attempts")
        assert [letter for letter in shop.app.dead_letters if letter.handler == handler] == []
    finally:
        outage_of(shop.data).unlink()

    eventually(lambda: shop.effects(*orders).total() >= 20)
    for order in orders[::6]:
        shop.becomes(order, "payment charged")
    assert shop.effects(*orders) == {"payment charged": 20}
    assert [letter for letter in shop.app.dead_letters if letter.handler == handler] == []
    if broker == "shop":
        eventually(lambda: shop.effects(handler).total() >= 2, reason="the alerts of the pause and of its end")
        assert shop.effects(handler) == {"analytics handler.paused": 1, "analytics handler.resumed": 1}


@pytest.mark.parametrize("broker", ["shop", "rabbit"])
def test_q_an_effect_is_not_undone(request: pytest.FixtureRequest, broker: str, subject: str) -> None:
    shop: Shop = request.getfixturevalue(broker)
    shop.publish(TripBooked(), subject)
    eventually(lambda: shop.effects(subject) == {"payment fare taken": 1})
    shop.publish(TripCancelled(), subject)

    said = shop.sees("trace", subject, words="DEAD LETTER [0-9a-f]{10}")

    assert (
        "payment.refund_fare failed for good: PermanentFailure: the card has been closed (refused, dead letter " in said
    )
    stands = shop.choreo("effects", subject, code=1)
    assert "NOT UNDONE trip.paid" in stands
    assert replay_in(stands) == replay_in(said)
    shop.mend(subject)
    shop.choreo("dead-letters", "replay", replay_in(said))
    shop.becomes(subject, "payment fare taken", "payment fare refunded")
    assert "UNDONE trip.paid" in shop.choreo("effects", subject)


def test_r_an_event_is_not_signed(shop: Shop, subject: str) -> None:
    with shop.running("vault"):
        shop.publish(AlarmSilenced(), subject)

        said = shop.sees("trace", subject, words="DEAD LETTER [0-9a-f]{10}")

        assert "vault.note_silence failed for good: alarm.silenced" in said
        assert "from 'shopfront' is not signed. If it is right, replay it; if its publisher is to be trusted" in said
        assert "(untrusted, dead letter " in said
        assert "# is it right, and who has announced it? Then:" in said
        assert shop.effects(subject) == {}
        shop.choreo("dead-letters", "replay", replay_in(said))
        shop.becomes(subject, "vault noted")


def test_nothing_is_known(shop: Shop, subject: str) -> None:
    said = shop.choreo("trace", subject, code=1)

    assert f"Nothing is known of '{subject}': no event of it waits" in said


@pytest.mark.parametrize("what", ["event", "story", "letter"])
def test_a_story_is_found_by_any_of_its_ids(shop: Shop, subject: str, what: str) -> None:
    event = shop.publish(OrderPlaced(fault="no menu"), subject)
    shop.sees("trace", subject, words="DEAD LETTER")
    (letter,) = [one for one in shop.app.dead_letters if one.subject == subject]

    said = shop.choreo("trace", {"event": event.id, "story": event.correlation_id, "letter": letter.id}[what])

    assert "restaurant.answer_order failed for good" in said
