"""`choreo map`: from code, and from what the services have told the store."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from choreo.cli import choreo
from choreo.declare.description import HandlerDescription, ModelDescription, ServiceDescription
from choreo.observe.map import IdleQueue, MappedService, UnreadField, drawn
from choreo.store.presence import Program
from tests.unit.metropolis import EVENTS, metropolis
from tests.unit.stage import service

ROOT = Path(__file__).parents[2]

HANDLERS = """\
EVENT                          ANNOUNCED BY             HEARD BY
dead_letter.recorded           choreo                   notification, *
driver.assigned                driver.assign_driver     notification, *, ~
order.confirmed_by_restaurant  restaurant.answer_order  driver+, payment-, *, ~
order.delayed                  driver.assign_driver     notification, *
                               (timeout)
order.placed                   order                    payment, restaurant, *,
                                                        ~
order.rejected_by_restaurant   restaurant.answer_order  driver-, notification,
                                                        payment, *, ~
payment.charged                payment.charge_customer  driver+, loyalty,
                                                        payment<, *, ~
payment.failed                 payment.charge_customer  driver-, notification,
                                                        *, ~
payment.refunded               payment.refund_customer  loyalty, *
story.overdue                  analytics.delivery       notification, *
                               (timeout)
+ part of a join   - cancels a join   < undoes its effect
* analytics.count_event hears #
~ followed by the story analytics.delivery
"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(choreo, ["map", *arguments])


def code(*arguments: str) -> str:
    done = run("--package", "handlers", *arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_map_of_a_package_is_made_from_its_code_alone():
    assert code() == HANDLERS


def test_the_documents_show_the_map_as_it_is():
    """Of the reference application; docs/operations.md adds what is wrong on a platform."""
    mermaid = (ROOT / "handlers/README.md").read_text().partition("```mermaid\n")[2].partition("```")[0]
    assert mermaid == code("--mermaid"), "paste the output of choreo map --package handlers --mermaid"

    shown = (ROOT / "docs/operations.md").read_text().partition("$ choreo map\n")[2].partition("```")[0].splitlines()
    assert [line for line in HANDLERS.splitlines() if line not in shown] == []


def test_what_concerns_a_service_has_the_full_names_of_its_handlers():
    output = code("loyalty")

    assert " driver+, loyalty.award_points," in output
    assert "order.delayed" not in output


def test_what_concerns_a_service_is_as_compact_as_the_whole_map():
    output = code("payment")

    assert len(output.splitlines()) <= len(HANDLERS.splitlines())
    assert " restaurant, *, ~\n" in output
    assert [line for line in output.splitlines() if line.strip() in ("*", ",")] == []
    assert "restaurant.answer_order" in output
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.parametrize("forms", [("--mermaid", "--json"), ("--mermaid", "--svg"), ("--dot", "--svg", "--json")])
def test_forms_that_exclude_each_other_are_refused(forms: tuple[str, ...]):
    done = run("--package", "handlers", *forms)

    assert done.exit_code == 2
    assert "exclude each other. Choose one." in done.output


def test_a_picture_of_the_readers_of_a_field_is_refused():
    done = run("--package", "handlers", "--reads", "tip", "--dot")

    assert done.exit_code == 2
    assert "--reads prints a list, or JSON with --json. Leave out --dot." in done.output


def test_without_graphviz_the_way_out_works_before_a_release(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("choreo.observe.graphviz._program", lambda: None)

    done = run("--package", "handlers", "--svg")

    assert done.exit_code == 1
    assert "`pip install '.[map]'` in a checkout" in done.output
    assert "`dot`" in done.output


def test_an_event_is_shown_with_the_fields_that_each_handler_reads():
    output = code("payment.charged")

    assert "payment.charged is heard by  LISTENS     READS" in output
    assert "loyalty.award_points         by name     customer_id, amount_cents" in output
    assert "driver.assign_driver         in a join   customer_id, amount_cents, payment_id" in output
    assert "analytics.count_event        to #        the whole event" in output


def test_a_name_that_is_not_on_the_map_is_refused_with_the_one_that_was_meant():
    done = run("--package", "handlers", "paymnt")

    assert done.exit_code == 1
    assert "No service, handler or event 'paymnt' is on the map. Did you mean payment?" in done.output


def test_a_package_that_is_named_as_on_other_commands_leads_to_the_option():
    done = run("--package", "handlers", "handlers")

    assert done.exit_code == 1
    assert "For the code of a package: `choreo map --package handlers`." in done.output


def test_who_reads_a_field_is_shown_and_who_may():
    output = code("--reads", "estimated_minutes")

    assert output.splitlines()[1:] == [
        "driver.assign_driver       estimated_minutes  order.confirmed_by_restaurant",
        "notification.text_arrival  estimated_minutes  driver.assigned",
        "analytics.count_event      the whole event    #",
    ]
    assert "No handler says that it reads 'tip'." in code("--reads", "tip")
    first, second = map(json.loads, code("--reads", "customer_id", "order.delayed", "--json").splitlines())
    assert first == {"handler": "analytics.count_event", "event": "#", "is_certain": False}
    assert second == {"handler": "notification.text_delay", "event": "order.delayed", "is_certain": True}


def test_the_fields_that_no_handler_uses_are_shown():
    assert code("--unread").splitlines() == [
        "EVENT                          FIELD          USED BY",
        "order.confirmed_by_restaurant  restaurant_id  nobody",
        "payment.refunded               payment_id     nobody",
    ]
    assert json.loads(code("--unread", "payment.refunded", "--json")) == {
        "event": "payment.refunded",
        "field": "payment_id",
        "perhaps": [],
    }
    refused = run("--package", "handlers", "--unread", "--dot")
    assert (refused.exit_code, "--unread prints a list" in refused.output) == (2, True)


def test_a_field_that_a_handler_may_use_is_shown_with_a_question_mark():
    def hearing(name: str, uses: tuple[str, ...] | None) -> HandlerDescription:
        return HandlerDescription(f"shop.{name}", ("order.placed",), uses={"order.placed": uses})

    schema = {"properties": {"total": {}, "note": {}}}
    model = ModelDescription("OrderPlaced", event="order.placed", version=1, written=schema)
    told = ServiceDescription("shop", (hearing("charge", ("total",)), hearing("keep", None)), models=(model,))
    older = ServiceDescription("shop", (hearing("charge", ("total", "note")),))
    unheard = ServiceDescription("shop", models=(model,))

    assert drawn([told]).unread() == [UnreadField("order.placed", "note", ("shop.keep",))]
    assert drawn([told, older]).unread() == []
    assert drawn([unheard]).unread() == []


def test_the_other_forms_are_printed_for_other_programs():
    assert json.loads(code("--json"))["events"][0]["type"] == "dead_letter.recorded"
    assert code("--mermaid").startswith("flowchart LR\n")
    assert code("--dot", "payment").startswith("digraph choreo {\n")
    assert "<svg " in code("--svg")


def test_a_service_can_be_named_as_celery_does():
    done = run("--code", "handlers.payment", "--code", "handlers.order:app")

    assert done.exit_code == 0, done.output
    assert "order.placed                   order                    payment" in done.output
    assert "driver" not in done.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--code", "no.such.module"), "no.such.module: "),
        (("--code", "handlers.events"), "handlers.events: "),
        (("--package", "no_such_package"), "There is no package or module 'no_such_package' here."),
    ],
)
def test_code_that_is_not_there_is_named(arguments: tuple[str, ...], told: str):
    done = run(*arguments)

    assert done.exit_code == 2
    assert told in done.output


def test_what_only_publishes_is_read_from_its_source_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "corner_shop"
    package.mkdir()
    (package / "events.py").write_text(
        "from choreo import Event\n"
        "class OrderPlaced(Event): pass\n"
        "class OrderCancelled(Event): pass\n"
        "class MenuChanged(Event): pass\n"
    )
    (package / "web.py").write_text(
        "from choreo import Service\n"
        "from corner_shop.events import OrderCancelled, OrderPlaced\n"
        "app = Service('web', announces=[OrderPlaced])\n"
        "def cancel(): app.publish(OrderCancelled().about('ORD-1'))\n"
        "raise RuntimeError('this module must not run')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    done = run("--package", "corner_shop")

    assert done.exit_code == 0, done.output
    assert done.output == (
        "EVENT            ANNOUNCED BY  HEARD BY\n"
        "menu.changed     nobody known  NOBODY\n"
        "order.cancelled  web (seen)    NOBODY\n"
        "order.placed     web           NOBODY\n"
    )


class TestLive:
    @pytest.fixture(autouse=True)
    def app(self, monkeypatch: pytest.MonkeyPatch):
        app = service("command_line")
        app.runtime.waiting_in = lambda _: {"payment.report": 3}
        monkeypatch.setattr("choreo.cli.app.command_line_service", lambda *_: app)
        return app

    def test_a_store_that_knows_nobody_says_how_it_learns(self):
        done = run()

        assert done.exit_code == 0
        assert "No service is known at memory" in done.output
        assert "choreo map --package NAME" in done.output

    def test_it_shows_what_is_wrong(self, app):
        store = app.runtime.store
        charge = HandlerDescription("payment.charge", ("order.placed",), ())
        report = HandlerDescription("payment.report", ("order.placed",))
        told = ServiceDescription("payment", (charge, report))
        program = Program("payment@a/1", "payment@a", pool="solo", queues=("payment.charge",), digest=told.digest)
        store.register(["payment.charge", "payment.report", "loyalty.award"])
        store.report("payment", program, told.to_json(), 60)
        gone = ServiceDescription("loyalty", (HandlerDescription("loyalty.award", ("payment.charged",), ()),))
        store.report("loyalty", Program("loyalty@a/1", "loyalty@a", pool="solo", digest="g"), gone.to_json(), 60)
        store.leave("loyalty", "loyalty@a/1")
        shop = ServiceDescription("shop")
        store.report("shop", Program("web", "web", digest=shop.digest), shop.to_json(), 0, ["orders.placed"])

        store.note_unheard("menu", {"menu.changed": 212})

        output = run().output

        assert "menu.changed     menu (seen)     NOBODY (212x, last " in output
        assert "orders.placed    shop (seen)     NOBODY  order.placed?" in output
        assert "order.placed     nobody known    payment\n                 orders.placed?\n" in output
        assert "payment.charged  nobody known    loyalty" in output
        assert "QUEUES NOBODY CONSUMES  payment.report (3)" in output
        assert output.startswith("NO WORKER LIVES  loyalty (last seen ")
        assert "NOT SAID                payment.report: without a return annotation, so they may" in output


def test_a_large_platform_fits_the_screen_and_nothing_is_cut_off(capsys: pytest.CaptureFixture[str]):
    from choreo.cli.map import _print

    shown = drawn(
        metropolis(),
        types=EVENTS,
        services=[
            MappedService("billing", 0, seen=1000.0, waiting=88),
            MappedService("shipping", 3, ("1.4.1", "1.4.2"), is_divided=True),
        ],
        idle=[IdleQueue("shipping.old_points", 3, is_undeclared=True)],
    )

    _print(shown, ())

    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 60
    words = {word.strip(",+-") for line in lines for word in line.split()}
    assert set(EVENTS) <= words
    assert {"recommendations", "procurement", "notifications"} <= words
    assert lines[0].startswith("NO WORKER LIVES  billing (last seen 1970-01-01 ")
    assert lines[-1] == "TWO DECLARATIONS        shipping (1.4.1, 1.4.2; 3 workers)"


def test_foreign_text_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str]):
    from choreo.cli.map import _print

    nasty = HandlerDescription("a.b", ("x.y[bold]\x1b[31m",), ("z\nq",))
    _print(drawn([ServiceDescription("a", (nasty,))]), ())

    output = capsys.readouterr().out
    assert "\x1b" not in output
    assert "x.y[bold]\\x1b[31m" in output
    assert "z\\nq" in output
