"""Which transport a service's connections use, whichever way its broker is named."""

from typing import Any

import pytest
from kombu import Queue

from choreo import Service
from choreo.broker.redis.publishing import PublishingChannel
from choreo.errors import DeclarationError
from choreo.fast.fused_store import FusedStore

SENTINELS = ["sentinel://a:26379/0", "sentinel://b:26379/0"]
NODES = ["amqp://a:5672//", "amqp://b:5672//"]


def service(broker: Any) -> Service:
    options = {"master_name": "shop"}
    return Service("payment", broker=broker, config={"broker_transport_options": options}, set_as_current=False)


@pytest.mark.parametrize("broker", [";".join(SENTINELS), SENTINELS, tuple(SENTINELS)], ids=["text", "list", "tuple"])
def test_on_its_way_from_one_sentinel_to_the_next_it_keeps_choreos_transport(broker: Any):
    app = service(broker)
    connection: Any = app.connection_for_write()
    assert connection.alt == SENTINELS

    for _ in SENTINELS:
        connection.maybe_switch_next()

        for one in (connection, connection.clone()):
            assert issubclass(one.transport.Channel, PublishingChannel)
            assert one.as_uri() == f"sentinel://:**@{one.hostname}:26379/0"


def test_a_list_of_sentinels_leads_to_the_store_beside_the_broker():
    store = service(SENTINELS).runtime.store

    assert isinstance(store, FusedStore)
    assert store.url == ";".join(SENTINELS)


@pytest.mark.parametrize("broker", [";".join(NODES), NODES], ids=["text", "list"])
def test_the_next_node_of_a_rabbitmq_cluster_confirms_as_well(broker: Any):
    connection: Any = service(broker).connection_for_write()

    connection.maybe_switch_next()

    assert connection.hostname == "b"
    assert connection.transport_options["confirm_publish"]


@pytest.mark.parametrize(
    "broker",
    ["redis://u:secret@a:6379/0;redis://b:6379/0", ["redis://u:secret@a:6379/0", "redis://b:6379/0"]],
    ids=["text", "list"],
)
def test_several_redis_servers_are_no_broker(broker: Any):
    with pytest.raises(DeclarationError, match=r"several Redis servers \(a:6379, b:6379\).*Sentinel") as caught:
        service(broker).connection_for_write()

    assert "secret" not in str(caught.value)


def with_queues(**settings: Any) -> Any:
    return Service("payment", config=settings, broker="memory://", set_as_current=False).amqp.queues


@pytest.mark.parametrize(
    "queues",
    [
        [Queue("mail")],
        (Queue("mail"),),
        {"mail": Queue("mail")},
        {"mail": {"exchange": "mail", "routing_key": "mail"}},
        {"mail": {}},
    ],
    ids=["list", "tuple", "dict of queues", "dict of options", "dict of names"],
)
def test_queues_of_the_users_own_are_beside_those_of_the_service_in_every_form_that_celery_takes(queues: Any):
    assert set(with_queues(task_queues=queues)) == {"payment", "payment.dead_letters", "mail"}


@pytest.mark.parametrize("queues", [["mail"], "mail", 5, {"mail": "mail"}, {5: {}}, [None]])
def test_what_is_no_queue_is_refused_with_an_example(queues: Any):
    with pytest.raises(DeclarationError, match=r"which is no queue. Write task_queues = \[Queue\("):
        with_queues(task_queues=queues)


def test_no_queue_of_the_users_own_takes_the_place_of_a_handlers():
    with pytest.raises(DeclarationError, match=r"task_queues names 'payment\.dead_letters', which is the queue"):
        with_queues(task_queues=[Queue("payment.dead_letters")])


def test_a_highest_priority_is_for_queues_that_can_have_one():
    queues = with_queues(task_queue_max_priority=10, task_queues=[Queue("mail")])

    limits = {name: (queue.queue_arguments or {}).get("x-max-priority") for name, queue in queues.items()}
    assert limits == {"payment": 10, "mail": 10, "payment.dead_letters": None}
