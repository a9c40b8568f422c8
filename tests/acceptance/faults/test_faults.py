"""Each fault that an operator was tried with: one command, given the order's id, names its cause and the next step."""

import re
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from choreo import Event
from choreo.local.server import EmbeddedServer
from tests.acceptance.faults.conftest import Shop, platform_of, service
from tests.acceptance.faults.services.words import (
    ArrivalNoted,
    MealOrdered,
    OrderPlaced,
    OrdersPlaced,
    ParcelPlaced,
    PointsEarned,
    RefusalNoted,
    ReminderSent,
    StockChanged,
)
from tests.waiting import eventually


class VoucherBought(Event):
    pass


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


def test_a_on_rabbitmq_whose_queues_cannot_be_looked_into(rabbit: Shop, subject: str) -> None:
    rabbit.publish(ParcelPlaced(), subject)

    said = rabbit.sees("trace", subject, words="OPEN driver.send_parcel waits for parcel.paid until")

    assert "no worker of depot lives (the last, depot@" in said
    assert "DO celery -A tests.acceptance.faults.services.depot worker" in said
    assert "CAUSE no worker of depot lives" in rabbit.choreo("why-not", "parcel.sent", subject)


def test_b_a_handler_raises_for_one_order(shop: Shop, subject: str) -> None:
    shop.publish(OrderPlaced(fault="no menu"), subject)

    said = shop.sees("trace", subject, words="DEAD LETTER [0-9a-f]{10}")

    assert "restaurant.answer_order failed for good: KeyError: 'menu 7' (exhausted, dead letter " in said
    assert "choreo dead-letters replay" in said


def test_c_a_join_waits_for_an_event_that_a_handler_did_not_announce(shop: Shop, subject: str) -> None:
    shop.publish(OrderPlaced(fault="forgotten"), subject)
    shop.sees("trace", subject, words="OPEN driver.assign_driver waits for payment.charged")

    said = shop.sees("why-not", "driver.assigned", subject, words="CAUSE payment.charge_customer handled order.placed")

    assert "and announced nothing." in said
    assert f"choreo publish payment.charged --subject {subject}" in said
    assert "payment.charge_customer handled order.placed" in shop.choreo("trace", subject).partition("TIME")[0]


def test_c_a_join_waits_for_the_event_of_a_dead_letter(shop: Shop, subject: str) -> None:
    shop.publish(OrderPlaced(fault="frozen"), subject)
    shop.sees("trace", subject, words="OPEN driver.assign_driver waits for payment.charged")

    said = shop.sees("why-not", "driver.assigned", subject, words="CAUSE payment.charge_customer failed for good")

    assert "the provider has frozen this account (refused, dead letter" in said
    assert "choreo dead-letters replay" in said


def test_d_a_join_was_cancelled(shop: Shop, subject: str) -> None:
    shop.publish(OrderPlaced(fault="refused"), subject)

    said = shop.sees("trace", subject, words="done in .*driver.assign_driver was cancelled by payment.failed")

    assert "payment.failed" in said
    assert "CAUSE driver.assign_driver was cancelled by payment.failed at" in shop.choreo(
        "why-not", "driver.assigned", subject
    )


def test_e_an_event_kills_its_worker(shop: Shop, subject: str) -> None:
    shop.publish(MealOrdered(), subject)

    said = shop.sees("trace", subject, words=r"STUCK for .*(its worker died each time|dead letter [0-9a-f]{10})")

    assert "kitchen.cook" in said
    said = shop.sees("trace", subject, words=r"\(poison, dead letter [0-9a-f]{10}\)")
    assert "signal 9 (SIGKILL)" in said
    assert "choreo dead-letters show" in said


def test_f_a_slow_service_has_a_long_queue(shop: Shop, subject: str) -> None:
    for number in range(30):
        shop.publish(ArrivalNoted(), f"{subject}-{number}")

    said = shop.choreo("trace", f"{subject}-29")

    assert "waiting: it is" in said
    assert "in the queue of texting.text_arrival" in said
    assert "which 1 worker consumes" in said


def test_g_a_type_that_only_a_wildcard_hears(shop: Shop, subject: str) -> None:
    shop.publish(OrdersPlaced(), subject)
    shop.sees("trace", subject, words="orders.placed")

    said = shop.choreo("why-not", "order.placed", subject)

    # Whether order.placed was announced before depends on the tests that ran before.
    assert re.search(r"orders\.placed( was announced at [0-9:]+)?: a misspelling of it\?", said)
    assert "orders.placed" in shop.sees("map", words="orders.placed.*order.placed")


def test_h_many_dead_letters_of_one_cause(shop: Shop, subject: str) -> None:
    for number in range(20):
        shop.publish(PointsEarned(currency="XXX"), f"{subject}-{number}")

    shop.sees("stuck", words=r"payment.award_points +[0-9]+ .*dead letters", code=None)
    said = shop.sees("trace", f"{subject}-19", words="DEAD LETTER")

    assert "payment.award_points failed for good: PermanentFailure: unknown currency XXX" in said


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


def test_j_a_retry_in_twenty_minutes(shop: Shop, subject: str) -> None:
    shop.publish(OrderPlaced(fault="night"), subject)

    # The restaurant may still have the order in hand.
    due = "waiting: attempt 2 of 6 of payment.charge_customer is due in 20 min"
    said = shop.sees("trace", subject, words=due)

    assert "attempt 2 in 20 min" in said


def test_k_two_versions_of_a_service_at_once(shop: Shop, tmp_path: Path) -> None:
    with ExitStack() as stack:
        second = platform_of(stack, (shop.broker_url, shop.store_url, shop.namespace), tmp_path, version="1.4.2")
        second.start("analytics")
        second.wait_ready()

        said = shop.sees("top", "--once", words=r"VERSIONS .*1\.4\.2", code=None)

    assert "1.4.1" in said
    assert "1.4.2" in said


def test_l_the_server_evicts_keys() -> None:
    with EmbeddedServer() as server:
        app = service(server.url, server.url, "lone")
        app.runtime.introduce()
        with redis.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", "64mb")
            client.config_set("maxmemory-policy", "allkeys-lru")
        lone = Shop(server.url, server.url, "lone", app, None)  # type: ignore[arg-type]

        assert "allkeys-lru" in lone.choreo("top", "--once", code=1)


def test_m_a_loop_between_two_services(shop: Shop, subject: str) -> None:
    shop.publish(StockChanged(left=130), subject)

    said = shop.sees("top", "--once", words=f"LOOPS.*{subject}", code=None)

    assert "price.changed" in said
    assert "stock.changed" in said


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


def test_n_on_rabbitmq(rabbit: Shop, subject: str) -> None:
    queue = f"{rabbit.namespace}.texting.text_refusal"
    rabbit.publish(RefusalNoted(), subject)

    said = rabbit.sees("why-not", "refusal.noted", subject, words="CAUSE")

    assert "refusal.noted" in said
    assert queue in rabbit.choreo("map")


def test_o_a_delayed_event_and_no_worker(shop: Shop, subject: str) -> None:
    app = service(shop.broker_url, shop.store_url, f"{shop.namespace}o")
    app.publish(ReminderSent(), subject, delay=1200)
    lonely = Shop(shop.broker_url, shop.store_url, f"{shop.namespace}o", app, shop.platform)

    said = lonely.choreo("trace", subject)

    assert "reminder.sent is due in 20 min" in said
    assert "no worker of any service lives" in said
    assert "DO # start a worker of any service" in said


def test_p_an_outage_makes_dead_letters_of_everything(shop: Shop, subject: str) -> None:
    for number in range(5):
        shop.publish(OrderPlaced(fault="outage"), f"{subject}-{number}")

    said = shop.sees("trace", f"{subject}-4", words="STUCK")

    assert "no route to payments.example.com" in said
    shop.sees("stuck", words=r"payment.charge_customer +[0-9]+ .*dead letters", code=None)


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
