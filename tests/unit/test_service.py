"""Declaring a service, and announcing with it. A wrong declaration fails here, at import, and says the way out."""

import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

import pytest
from celery import Task
from celery.contrib.migrate import migrate_tasks
from celery.exceptions import ImproperlyConfigured
from click import ClickException
from kombu import Connection

from choreo import Context, DeadLetter, Envelope, Event, Retry, Service
from choreo.errors import DeclarationError, EventNameError, EventTooLargeError
from choreo.store.memory import MemoryStore
from choreo.store.redis import RedisStore
from choreo.testing import Recorder, recorder
from tests.unit.events import (
    DriverAssigned,
    OrderConfirmed,
    OrderPlaced,
    OrderRejected,
    PaymentCharged,
    PaymentFailed,
    envelope,
)
from tests.unit.stage import Stage, service


@pytest.fixture
def app() -> Service:
    return service("payment")


def charge(order: OrderPlaced) -> PaymentCharged | None:
    """Charge the customer."""
    return PaymentCharged(amount_cents=order.total_cents)


def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
    return DriverAssigned()


def give_up(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> None:
    pass


def refused(declare) -> str:
    with pytest.raises(DeclarationError) as caught:
        declare()
    return str(caught.value)


# -- handlers ---------------------------------------------------------------------------------------------------


def test_a_handler_is_a_celery_task_with_a_queue_of_the_same_name(app):
    app.on(OrderPlaced, "payment.*")(lambda_named("watch"))

    queue = app.amqp.queues["payment.watch"]

    assert app.tasks["payment.watch"].name == "payment.watch"
    assert sorted(found.routing_key for found in queue.bindings) == ["order.placed", "payment.*"]
    assert all(found.exchange.name == "choreo.events" for found in queue.bindings)
    assert all(found.exchange.type == "topic" for found in queue.bindings)


def lambda_named(name: str):
    def watch(received: Envelope) -> None:
        pass

    watch.__name__ = name
    return watch


def test_a_handler_stays_a_plain_function(app):
    declared = app.on(OrderPlaced)(charge)

    assert declared is charge
    assert declared(OrderPlaced(customer_id="alice", total_cents=5)) == PaymentCharged(amount_cents=5)


def test_a_handlers_task_tells_what_its_function_tells(app):
    app.on(OrderPlaced)(charge)

    task = app.tasks["payment.charge"]

    assert task.__doc__ == "Charge the customer."
    assert task.__module__ == __name__


def test_a_name_can_be_pinned(app):
    app.on(OrderPlaced, name="charge_customer")(charge)

    assert [subscription.name for subscription in app.subscriptions] == ["payment.charge_customer"]


def test_retry_holds_for_every_handler_that_does_not_say_otherwise():
    app = service("payment", retry=Retry(times=9))
    app.on(OrderPlaced)(charge)
    app.on(OrderPlaced, retry=Retry(times=1), name="impatient")(charge)

    assert [subscription.retry.times for subscription in app.subscriptions] == [9, 1]


def test_a_handler_that_is_declared_after_the_app_was_used_is_there_too(app):
    app.finalize()

    app.on(OrderPlaced)(charge)

    assert "payment.charge" in app.tasks


def test_one_function_can_listen_under_several_names(app):
    app.on(OrderPlaced)(charge)
    app.on(OrderPlaced, name="charge_again")(charge)

    assert {"payment.charge", "payment.charge_again"} <= set(app.tasks)


def test_two_handlers_of_one_name_are_refused(app):
    app.on(OrderPlaced)(charge)

    said = refused(lambda: app.on(OrderPlaced)(charge))

    assert "payment.charge is declared twice. A handler's name is its queue's" in said
    assert 'name="..."' in said


def test_an_unknown_option_is_refused_with_the_one_that_was_meant(app):
    assert "@app.on(retires=...): unknown option, did you mean retry?" in refused(
        lambda: app.on(OrderPlaced, retires=Retry())
    )
    assert "@app.join(withn=...): unknown option, did you mean within?" in refused(
        lambda: app.join(OrderConfirmed, PaymentCharged, withn=timedelta(1))
    )
    told = refused(lambda: app.on(OrderPlaced, xyz=1))
    assert "@app.on(xyz=...): unknown option, it takes undoes, by, within, unless, " in told


def test_an_unknown_option_of_a_service_is_refused_with_the_one_that_was_meant():
    assert "Service(retires=...): unknown option, did you mean retry?" in refused(
        lambda: service("payment", retires=Retry())
    )
    assert "Service(brokr=...): unknown option, did you mean broker?" in refused(
        lambda: Service("payment", config=None, brokr="memory://")
    )
    assert "Service(xyz=...): unknown option, it takes retry, terms, announces, config, loader, backend" in refused(
        lambda: service("payment", xyz=1)
    )


def test_a_service_takes_what_a_celery_app_takes():
    app = service("payment", include=["json"], namespace="CELERY", task_always_eager=True)

    assert app.conf.task_always_eager


@pytest.mark.parametrize("retry", [5, Retry, "5", {"times": 5}])
def test_a_retry_that_is_no_retry_is_refused(app, retry):
    said = refused(lambda: app.on(OrderPlaced, retry=retry)(charge))

    assert f"test_service.charge: retry={retry!r} is not a Retry. Write retry=Retry(times=5)." in said


def test_a_services_own_retry_is_checked_too():
    assert "retry=5 is not a Retry" in refused(lambda: service("payment", retry=5))


def test_a_handler_of_no_event_is_refused(app):
    assert "@app.on() above" in refused(lambda: app.on()(charge))
    assert "Write @app.on(OrderPlaced)." in refused(lambda: app.on()(charge))


def test_a_decorator_without_its_parentheses_is_refused(app):
    # Otherwise the function would be replaced, and never called.
    assert "@app.on above tests.unit.test_service.charge names no event. Write @app.on(OrderPlaced)." in refused(
        lambda: app.on(charge)
    )
    assert "@app.join above tests.unit.test_service.assign names no event" in refused(lambda: app.join(assign))


def test_a_decorator_above_a_class_is_refused(app):
    class Charge:
        def __call__(self, order: OrderPlaced) -> None: ...

    said = refused(lambda: app.on(Charge))

    assert "Charge is neither an event class nor a pattern. Write @app.on(OrderPlaced) above a function." in said


@pytest.mark.parametrize("name", ["charge.customer", "charge customer", "", "9lives", "*", 5])
def test_a_handler_name_that_cannot_be_a_queues_is_refused(app, name):
    assert f"{name!r} is not a valid name for a handler: it becomes part of queue names" in refused(
        lambda: app.on(OrderPlaced, name=name)(charge)
    )


def test_a_handler_cannot_take_the_name_of_the_services_own_queue(app):
    assert "dead_letters is the name of the service's own queue" in refused(
        lambda: app.on(OrderPlaced, name="dead_letters")(charge)
    )


@pytest.mark.parametrize("name", ["pay.ment", "pay ment", "", "#", None])
def test_a_service_name_that_cannot_be_a_queues_is_refused(name):
    assert f"{name!r} is not a valid name for a service" in refused(lambda: Service(name, config=None))


def test_a_handler_that_cannot_take_its_event_is_refused_by_the_decorator(app):
    def bare(order): ...
    async def later(order): ...

    assert "has no annotation" in refused(lambda: app.on(OrderPlaced)(bare))
    assert "has no annotation" in refused(lambda: app.on(OrderPlaced)(later))
    assert "listens to PaymentCharged, but" in refused(lambda: app.on(PaymentCharged)(charge))
    assert "neither an event class nor a pattern" in refused(lambda: app.on(5)(charge))
    assert app.subscriptions == []


def test_a_command_is_refused_before_anybody_listens_to_it(app):
    with pytest.raises(EventNameError, match="did you mean PaymentCharged"):

        class ChargePayment(Event):
            pass


# -- joins ------------------------------------------------------------------------------------------------------


def test_a_join_listens_to_its_parts_and_to_what_cancels_it(app):
    app.join(OrderConfirmed, PaymentCharged, unless=OrderRejected, within=timedelta(minutes=5), on_timeout=give_up)(
        assign
    )

    queue = app.amqp.queues["payment.assign"]

    assert sorted(found.routing_key for found in queue.bindings) == [
        "order.confirmed",
        "order.rejected",
        "payment.charged",
    ]


def test_a_join_of_one_event_is_refused(app):
    assert "joins 1 event. To hear one event, write @app.on(OrderPlaced)." in refused(
        lambda: app.join(OrderPlaced)(charge)
    )


def test_a_join_of_no_event_is_refused(app):
    assert "joins no event. Write @app.join(OrderConfirmed, PaymentCharged)." in refused(lambda: app.join()(charge))


def test_a_join_of_the_same_event_twice_is_refused(app):
    assert "names the same event twice" in refused(lambda: app.join(OrderPlaced, OrderPlaced)(charge))


def test_a_join_with_patterns_is_refused(app):
    assert "A join takes event classes, not patterns." in refused(lambda: app.join(OrderConfirmed, "payment.*")(assign))


def test_a_join_that_is_cancelled_by_a_pattern_is_refused(app):
    # A pattern would be heard, and then counted as a part.
    assert "unless" in refused(lambda: app.join(OrderConfirmed, PaymentCharged, unless="order.*")(assign))


def test_a_join_that_is_cancelled_by_its_own_part_is_refused(app):
    assert "names the same event twice" in refused(
        lambda: app.join(OrderConfirmed, PaymentCharged, unless=PaymentCharged)(assign)
    )


@pytest.mark.parametrize("within", [timedelta(0), timedelta(seconds=-1), 0, -5, 1800, "1h", None])
def test_a_join_without_a_time_to_wait_is_refused(app, within):
    assert "within=" in refused(lambda: app.join(OrderConfirmed, PaymentCharged, within=within)(assign))


def test_a_join_that_takes_its_events_in_another_order_is_refused(app):
    assert "must take the joined events in the order of the join: (PaymentCharged, OrderConfirmed)" in refused(
        lambda: app.join(PaymentCharged, OrderConfirmed)(assign)
    )


def test_what_happens_on_timeout_is_checked_too(app):
    assert "(OrderConfirmed | None, PaymentCharged | None)" in refused(
        lambda: app.join(OrderConfirmed, PaymentCharged, on_timeout=assign)(assign)
    )


# -- Celery's options of a task ---------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", [True, False])
@pytest.mark.parametrize("decorator", ["on", "join"])
def test_safe_options_of_celery_hold_for_the_handlers_task(lane, decorator):
    app = service("payment", choreo_fast_lane=lane)
    options = {"time_limit": 30, "soft_time_limit": 20.5, "rate_limit": "10/m", "priority": 3}
    if decorator == "on":
        app.on(OrderPlaced, **options)(charge)
    else:
        app.join(OrderConfirmed, PaymentCharged, **options)(assign)

    task = app.tasks[app.subscriptions[0].name]

    assert {name: getattr(task, name) for name in options} == options
    assert app.tasks["payment.dead_letters"].rate_limit is None


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("time_limit", value) for value in (0, -1, "5", True, float("inf"), timedelta(seconds=5))),
        ("soft_time_limit", 0),
        *(("rate_limit", value) for value in ("often", 0, -1, "10/year", timedelta(1), True)),
        *(("priority", value) for value in (-1, 256, 1.5, "high", True)),
    ],
)
def test_a_value_that_celery_could_not_use_is_refused(app, option, value):
    assert f"{option}={value!r} is not a" in refused(lambda: app.on(OrderPlaced, **{option: value})(charge))


def test_a_soft_limit_after_the_hard_one_is_refused(app):
    assert "must be less than" in refused(lambda: app.on(OrderPlaced, time_limit=5, soft_time_limit=5)(charge))


@pytest.mark.parametrize(
    ("option", "way"),
    [
        ("queue", "name= renames both"),
        ("routing_key", "name= renames both"),
        ("max_retries", "retry=Retry(times=3"),
        ("default_retry_delay", "retry=Retry(times=3"),
        ("autoretry_for", "Retry(never="),
        ("acks_late", "Leave it out."),
        ("ignore_result", "@app.task"),
        ("bind", "context: Context"),
        ("countdown", "app.publish(event, delay=60)"),
        ("serializer", "JSON"),
        ("base", "around=[...]"),
    ],
)
@pytest.mark.parametrize("decorator", ["on", "join"])
def test_an_option_of_celery_that_has_another_place_is_refused_with_that_place(app, decorator, option, way):
    said = refused(lambda: getattr(app, decorator)(OrderPlaced, **{option: 1}))

    assert said.startswith(f"@app.{decorator}({option}=...): ")
    assert way in said


# -- a base class of tasks --------------------------------------------------------------------------------------

#: The tasks that were called inside the context, and hooks that ran.
ENTERED: list[str] = []


class ContextTask(Task):
    """As Flask's documentation writes it. What it says of acknowledging must not hold for events."""

    acks_late = False
    ignore_result = False

    def __call__(self, *args, **kwargs):
        ENTERED.append(self.name)
        return self.run(*args, **kwargs)

    def on_success(self, *_):
        ENTERED.append("on_success")


class ServiceWithTasks(Service):
    task_cls = "tests.unit.test_service:ContextTask"


def of_app_task(name: str, **options) -> Service:
    app = Service(name, **options)
    app.Task = ContextTask
    return app


@pytest.mark.parametrize("lane", [True, False])
@pytest.mark.parametrize(
    "make",
    [
        partial(Service, task_cls=ContextTask),
        partial(Service, task_cls="tests.unit.test_service:ContextTask"),
        ServiceWithTasks,
        of_app_task,
    ],
)
def test_the_users_base_class_of_tasks_is_that_of_handlers_too(make, lane):
    config = {"broker_url": "memory://", "choreo_store_url": "memory:", "choreo_fast_lane": lane}
    app = make("payment", config=config, set_as_current=False)
    app.on(OrderPlaced)(charge)
    ENTERED.clear()

    done = Stage(app).deliver(OrderPlaced(customer_id="alice"))

    assert done.successful(), done.result
    assert ENTERED == ["payment.charge", "on_success"]
    for task in (app.tasks["payment.charge"], app.tasks["payment.dead_letters"]):
        assert isinstance(task, ContextTask)
        assert task.acks_late
        assert task.ignore_result


def test_without_one_the_classes_of_handlers_stay_as_they_are(app):
    assert app.Task  # Celery makes it when it is first read

    app.on(OrderPlaced)(charge)

    assert len(type(app.tasks["payment.charge"]).__bases__) == 1


# -- Celery's tools that have another place here ----------------------------------------------------------------


def test_celery_migrate_is_refused_with_what_to_do_and_takes_no_message(app):
    app.on(OrderPlaced)(charge)

    with pytest.raises(ClickException, match=r"celery migrate cannot move the messages of payment.*Start its workers"):
        migrate_tasks(Connection("memory://"), Connection("memory://"), app=app, timeout=0.1)
    assert app.amqp.TaskConsumer(app.connection_for_read())


def test_eager_tasks_are_no_eager_handlers_and_publishing_says_so(caplog):
    app = service("payment", task_always_eager=True)

    app.publish(OrderPlaced(customer_id="alice"))

    assert "task_always_eager runs ordinary tasks at once, and no handlers" in caplog.text
    assert "use choreo.testing.stage(app)" in caplog.text


def test_without_a_broker_eager_tasks_are_told_where_handlers_run():
    app = Service("payment", config=None, set_as_current=False, task_always_eager=True)

    with pytest.raises(DeclarationError, match=r"broker_url is not set.*use choreo\.testing\.stage\(app\)"):
        app.publish(OrderPlaced(customer_id="alice"))


def test_list_bindings_on_rabbitmq_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrabbit", None)
    connection = Service("payment", config=None, broker="amqp://nowhere//", set_as_current=False).connection()

    with pytest.raises(ClickException, match=r"the package pyrabbit\. `rabbitmqctl list_bindings` shows them"):
        assert connection.manager


def test_on_a_stage_eager_tasks_need_no_word(caplog):
    app = service("payment", task_always_eager=True)

    with Stage(app):
        app.publish(OrderPlaced(customer_id="alice"))

    assert "task_always_eager" not in caplog.text


# -- typing errors in patterns and queues -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "guess"),
    [
        ("ordr.placed", "order.placed"),
        ("order.place", "order.placed"),
        ("order_placed.x", "order.placed"),
        ("ordr.*", "order.*"),
        ("ordr.#", "order.#"),
        ("*.plced", "*.placed"),
        ("#.plced", "#.placed"),
        ("order.placed", None),
        ("order.*", None),
        ("#", None),
        ("weather.changed", None),
    ],
)
def test_a_mistyped_pattern_is_said_and_a_foreign_event_is_not(app, caplog, pattern, guess):
    app.on(pattern)(lambda_named("watch"))

    app.finalize()

    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == (guess is not None)
    for text in said:
        assert text.startswith(f"payment.watch listens to '{pattern}'")
        assert f"did you mean '{guess}'?" in text


def test_a_mistyped_pattern_of_a_handler_that_is_declared_late_is_said_too(app, caplog):
    app.finalize()

    app.on("ordr.placed")(lambda_named("watch"))

    assert "did you mean 'order.placed'?" in caplog.text


@pytest.mark.parametrize("is_made", [True, False])
@pytest.mark.parametrize("act", ["select", "deselect"])
def test_a_mistyped_queue_is_refused_with_the_one_that_was_meant(act, is_made):
    app = service("payment", choreo_namespace="staging", task_create_missing_queues=is_made)
    app.on(OrderPlaced)(charge)

    for wrong in ("staging.payment.chrge", "payment.charge"):
        with pytest.raises(ImproperlyConfigured) as caught:
            getattr(app.amqp.queues, act)([wrong])
        assert f"{wrong}: there is no such queue, did you mean staging.payment.charge?" in str(caught.value)
        assert "task_create_missing_queues" not in str(caught.value)
    getattr(app.amqp.queues, act)(["staging.payment.charge"])


def test_a_queue_of_the_users_own_is_made_if_the_user_says_so():
    service("payment", task_create_missing_queues=True).amqp.queues.select("mail")
    with pytest.raises(ImproperlyConfigured, match=r"mail: there is no such queue, is it the queue of another service"):
        service("payment").amqp.queues.select("mail")


# -- dead letters -----------------------------------------------------------------------------------------------


def test_the_dead_letter_handler_is_a_task_on_the_services_own_queue(app):
    @app.dead_letter
    def tell(letter: DeadLetter) -> None:
        pass

    assert app.tasks["payment.dead_letters"].listener is tell
    assert "payment.dead_letters" in app.amqp.queues


def test_two_dead_letter_handlers_are_refused(app):
    def other(letter: DeadLetter) -> None: ...

    app.dead_letter(print)

    said = refused(lambda: app.dead_letter(other))
    assert "payment has a dead-letter handler already" in said
    assert "other" in said


def test_a_dead_letter_handler_with_parentheses_or_options_is_refused_with_the_way_to_write_it(app):
    assert "declared without parentheses. Write @app.dead_letter." in refused(lambda: app.dead_letter())
    assert "@app.dead_letter(retry=...): unknown option, it takes none." in refused(
        lambda: app.dead_letter(retry=Retry())
    )


def test_a_dead_letter_handler_that_could_not_be_called_is_refused(app):
    def nothing() -> None: ...
    def two(letter: DeadLetter, more: int) -> None: ...
    async def two_later(letter: DeadLetter, more: int) -> None: ...

    for wrong in (nothing, two, two_later, None, 5):
        assert "dead-letter handler" in refused(lambda wrong=wrong: app.dead_letter(wrong))


# -- announcing -------------------------------------------------------------------------------------------------


@pytest.fixture
def told(app) -> Iterator[Recorder]:
    with recorder(app) as told:
        yield told


def test_an_event_is_broadcast_under_its_type(app, told):
    announced = app.publish(OrderPlaced(customer_id="alice"), subject="ORD-1")

    assert told.events == [announced]
    message = app.publisher.message_for(announced)
    assert message.exchange == app.runtime.topology.exchange.name == "choreo.events"
    assert message.routing_key == "order.placed"
    assert (announced.subject, announced.source, announced.correlation_id) == ("ORD-1", "payment", announced.id)


def test_each_story_has_an_id_of_its_own(app, told):
    count = app.publish_many([OrderPlaced(customer_id="a"), OrderPlaced(customer_id="b")], "ORD-1")

    first, second = told.events
    assert count == 2
    assert first.id != second.id
    assert first.correlation_id != second.correlation_id


@pytest.mark.parametrize("thing", ["order.placed", {"type": "order.placed"}, None])
def test_what_is_no_event_cannot_be_announced(app, told, thing):
    assert "cannot be announced: it is not an event. Write class OrderPlaced(Event)." in refused(
        lambda: app.publish(thing)
    )


def test_a_class_an_abstract_event_and_an_envelope_cannot_be_announced_and_the_error_says_why(app, told):
    class Base(Event, abstract=True): ...

    assert (
        "OrderPlaced cannot be announced: it is a class of events. Announce one: OrderPlaced(customer_id=..., "
        in refused(lambda: app.publish(OrderPlaced))
    )
    assert "Base is abstract" in refused(lambda: app.publish(Base()))
    assert "app.publisher.announce([envelope])" in refused(lambda: app.publish(envelope(OrderPlaced(customer_id="a"))))


@pytest.mark.parametrize("subject", [7, b"ORD-1", ["ORD-1"]])
def test_a_subject_that_no_reader_could_read_is_refused_by_the_publisher(app, told, subject):
    with pytest.raises((DeclarationError, TypeError), match="subject"):
        app.publish(OrderPlaced(customer_id="alice"), subject=subject)
    with pytest.raises((DeclarationError, TypeError), match="subject"):
        app.publish(OrderPlaced(customer_id="alice").about(subject))
    assert told.events == []


def test_nothing_is_sent_when_one_of_several_cannot_be(app, told):
    big = OrderPlaced(customer_id="x" * 300_000)

    with pytest.raises(EventTooLargeError, match=r"order.placed ORD-1 is 300,\d+ bytes, more than 262,144"):
        app.publish_many([OrderPlaced(customer_id="a"), big], "ORD-1")
    with pytest.raises(DeclarationError):
        app.publish_many([OrderPlaced(customer_id="a"), "no event"])

    assert told.events == []


def test_inside_a_handler_an_event_joins_the_handlers_batch(app, told):
    context = Context("payment", "payment.charge", envelope(OrderPlaced(customer_id="a")), 1, 6, "key")

    with context.active():
        announced = app.publish(PaymentCharged())

    assert told.events == []
    assert context.announced == [announced]
    assert announced.causation_id == "e-1"


def test_inside_another_services_handler_an_event_leaves_at_once(app, told):
    context = Context("order", "order.accept", envelope(OrderPlaced(customer_id="a")), 1, 6, "key")

    with context.active():
        app.publish(PaymentFailed())

    assert context.announced == []
    assert [sent.type for sent in told.events] == ["payment.failed"]


# -- parts ------------------------------------------------------------------------------------------------------


def test_a_namespace_keeps_platforms_apart():
    app = service("payment")
    app.conf.choreo_namespace = "staging"
    app.on(OrderPlaced)(charge)

    assert app.runtime.topology.exchange.name == "staging.choreo.events"
    assert {"staging.payment.charge", "staging.payment.dead_letters", "staging.payment"} == set(app.amqp.queues)
    assert app.conf.control_exchange == "staging.choreo.control"
    assert "payment.charge" in app.tasks


def test_a_worker_takes_json_only_few_at_a_time_and_makes_no_queues(app):
    conf = app.conf

    assert conf.accept_content == ["json"]
    assert conf.task_serializer == "json"
    assert conf.task_create_missing_queues is False
    assert conf.worker_prefetch_multiplier == 4
    assert conf.control_exchange == "choreo.control"
    assert conf.task_default_queue == "payment"
    assert conf.result_backend is None


def test_a_handler_acknowledges_late_whatever_the_users_settings_say(app):
    app.conf.task_acks_late = False
    app.on(OrderPlaced)(charge)

    task = app.tasks["payment.charge"]

    assert task.acks_late
    assert task.reject_on_worker_lost
    assert task.ignore_result


@pytest.mark.parametrize(
    ("broker", "store"),
    [
        ("redis://:pw@127.0.0.1:6390/3", "redis://:pw@127.0.0.1:6390/3"),
        ("valkey://127.0.0.1:6390/3", "redis://127.0.0.1:6390/3"),
        ("valkeys://127.0.0.1:6390/3", "rediss://127.0.0.1:6390/3"),
    ],
)
def test_the_store_is_beside_the_broker_where_that_is_redis(broker, store):
    app = Service("payment", config=None, broker=broker, set_as_current=False)

    assert isinstance(app.runtime.store, RedisStore)
    assert app.runtime.store.url == store
    assert app.runtime.store.prefix == "choreo"


def test_the_store_keeps_namespaces_apart():
    app = Service("payment", config=None, broker="redis://127.0.0.1:6390", set_as_current=False)
    app.conf.choreo_namespace = "staging"

    assert app.runtime.store.prefix == "choreo:staging"


def test_where_the_store_is_must_be_said_where_the_broker_is_no_redis():
    app = Service("payment", config=None, broker="amqp://", set_as_current=False)

    assert "Say where it is: choreo_store_url" in refused(lambda: app.runtime.store)

    app.conf.choreo_store_url = "redis://127.0.0.1:6390"
    assert app.runtime.store.url == "redis://127.0.0.1:6390"


def test_a_store_in_memory_is_for_trying_things_out(app):
    assert isinstance(app.runtime.store, MemoryStore)


def test_settings_come_from_celeryconfig_like_any_celery_apps(tmp_path, monkeypatch):
    (tmp_path / "celeryconfig.py").write_text(
        "broker_url = 'redis://127.0.0.1:6390'\nchoreo_namespace = 'staging'\nworker_prefetch_multiplier = 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "celeryconfig", raising=False)

    app = Service("payment", set_as_current=False)

    assert app.runtime.topology.namespace == "staging"
    assert app.conf.worker_prefetch_multiplier == 7
    assert app.runtime.store.prefix == "choreo:staging"
