"""An edited dead letter: a new event for the handler that failed, linked to the old one; off unless it is allowed."""

import pytest
from click.testing import CliRunner, Result

from choreo import Context, DeadLetter, PermanentFailure, Retry
from choreo.cli.dead_letters import dead_letters
from choreo.errors import DeadLetterError, DeclarationError
from choreo.operate.edits import with_changes
from tests.unit.events import OrderConfirmed, OrderPlaced, PaymentCharged, envelope
from tests.unit.stage import Stage, service

CHARGE = "payment.charge"


class Shop:
    """A service that takes no order of nobody, and a join that takes no negative charge."""

    def __init__(self, *, allowed: bool = True) -> None:
        self.app = app = service("payment", retry=Retry(times=0))
        if allowed:
            app.conf.choreo_allow_edit = True
        self.handled: list[tuple[str, Context]] = []

        @app.on(OrderPlaced)
        def charge(order: OrderPlaced, context: Context) -> PaymentCharged:
            if order.customer_id == "nobody":
                raise PermanentFailure("nobody has no account")
            self.handled.append((order.customer_id, context))
            return PaymentCharged()

        @app.join(OrderConfirmed, PaymentCharged)
        def ship(confirmed: OrderConfirmed, charged: PaymentCharged, context: Context) -> None:
            if confirmed.meta.data.get("eta") == 0 or not self.handled:
                raise PermanentFailure("no driver")
            self.handled.append(("shipped", context))

        self.stage = Stage(app)
        monkeypatched = pytest.MonkeyPatch()
        monkeypatched.setattr("choreo.cli.app.command_line_service", lambda *_: app)
        known = {event.event_type: event for event in (OrderPlaced, OrderConfirmed, PaymentCharged)}
        monkeypatched.setattr("choreo.events.event.known_events", lambda: known)
        self.undo = monkeypatched.undo

    def fail(self) -> DeadLetter:
        event = envelope(
            OrderPlaced(customer_id="nobody", total_cents=5), subject="ORD-1", extensions={"tenant": "acme"}
        )
        self.stage.deliver(event, CHARGE)
        (letter,) = self.stage.dead_letters
        return letter


@pytest.fixture
def shop():
    shop = Shop()
    yield shop
    shop.undo()


def run(*arguments: str, code: int = 0, **options) -> Result:
    result = CliRunner().invoke(dead_letters, ["edit", *arguments], **options)
    assert result.exit_code == code, result.output
    return result


def test_an_edited_event_is_a_new_one_that_names_the_old_one_and_the_editor(shop):
    letter = shop.fail()
    (old,) = letter.envelopes

    new = shop.app.dead_letters.edit(
        letter.id, {"customer_id": "eve", "total_cents": 5}, reason="typo", who="anna@desk"
    )

    shop.stage.pass_time(1)
    ((customer, context),) = shop.handled
    assert customer == "eve"
    assert context.envelope.id == new.id != old.id
    assert (new.causation_id, new.correlation_id, new.subject) == (old.id, old.correlation_id, "ORD-1")
    assert new.extensions == {"tenant": "acme", "choreoeditor": "anna@desk", "choreoeditreason": "typo"}
    assert shop.stage.dead_letters == []
    charged = next(event for event in shop.stage.events if event.type == "payment.charged")
    assert charged.extensions == {"tenant": "acme"}, "what an edited event causes was not edited"
    repair = shop.app.repairs.recent()[0]
    assert (repair.action, repair.target, repair.reason, repair.who) == (
        "edited",
        f"{letter.id} {CHARGE}",
        "typo",
        "anna@desk",
    )


def test_the_old_event_stays_settled_and_a_failed_new_one_is_a_letter_of_its_own(shop):
    letter = shop.fail()

    shop.app.dead_letters.edit(letter.id, {"customer_id": "nobody", "total_cents": 6})
    shop.stage.pass_time(1)
    shop.stage.deliver(letter.envelopes[0], CHARGE)

    (again,) = shop.stage.dead_letters
    assert again.envelopes[0].causation_id == letter.envelopes[0].id
    assert shop.handled == []


def test_without_the_setting_it_is_refused(shop):
    other = Shop(allowed=False)
    letter = other.fail()

    with pytest.raises(DeadLetterError, match="set choreo_allow_edit = True"):
        other.app.dead_letters.edit(letter.id, {"customer_id": "eve"})
    assert "an event is a fact" in run(letter.id, "--set", "customer_id=eve", code=1).stderr
    assert other.stage.dead_letters == [letter]
    other.undo()


def test_the_setting_is_true_or_false():
    app = service("payment", choreo_allow_edit="yes")
    with pytest.raises(DeclarationError, match="choreo_allow_edit = 'yes': it takes True or False"):
        app.conf.get("choreo_allow_edit")


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        ({"customer_id": 5, "total_cents": 5}, "not a valid order.placed: customer_id: Input should be a valid string"),
        ({"customer_id": "nobody", "total_cents": 5}, "the data is as it was"),
        ({"customer_id": "alice", "total_cents": float("nan")}, "The data of an event is JSON, which this is not"),
    ],
)
def test_data_that_does_not_fit_is_refused_and_the_letter_stays(shop, data, fault):
    letter = shop.fail()

    with pytest.raises(DeadLetterError, match=fault):
        shop.app.dead_letters.edit(letter.id, data)

    assert shop.stage.dead_letters == [letter]
    assert shop.app.repairs.recent() == []


def test_a_letter_is_edited_once(shop):
    letter = shop.fail()
    shop.app.dead_letters.edit(letter.id, {"customer_id": "eve"})

    with pytest.raises(DeadLetterError, match="no dead letter"):
        shop.app.dead_letters.edit(letter.id, {"customer_id": "adam"})


def test_one_part_of_a_join_is_edited_and_the_others_come_with_it(shop):
    parts = envelope(OrderConfirmed(), subject="ORD-2", id="c"), envelope(PaymentCharged(), subject="ORD-2", id="p")
    for part in parts:
        shop.stage.deliver(part, "payment.ship")
    (letter,) = shop.stage.dead_letters
    with pytest.raises(DeadLetterError, match=r"holds order.confirmed \(c\), payment.charged \(p\). Name one"):
        shop.app.dead_letters.edit(letter.id, {"eta": 9})
    shop.handled.append(("", None))

    new = shop.app.dead_letters.edit(letter.id, {"eta": 9}, event="order.confirmed")

    shop.stage.pass_time(1)
    assert shop.handled[-1][0] == "shipped"
    assert shop.stage.dead_letters == []
    assert new.data == {"eta": 9}


def test_the_command_shows_what_changes_and_asks(shop):
    letter = shop.fail()
    given = letter.id, "--set", "customer_id=eve", "--set", "total_cents=2500"

    refused = run(*given, input="typo\nn\n").stdout
    assert 'customer_id: "nobody" -> "eve"\ntotal_cents: 5 -> 2500\nWhy: typo\n' in refused
    assert f"Send this order.placed to {CHARGE}? [y/N]: n\n" in refused
    assert shop.stage.dead_letters == [letter]

    said = run(*given, "--reason", "typo", "--yes").stdout
    assert f"{letter.id}: order.placed ORD-1 goes to {CHARGE} as a new event, " in said
    shop.stage.pass_time(1)
    assert shop.handled[0][0] == "eve"


def test_all_fields_are_given_as_json(shop):
    letter = shop.fail()

    run(letter.id, "--data", '{"customer_id": "eve", "total_cents": 1}', "--reason", "x", "--yes")

    shop.stage.pass_time(1)
    assert shop.handled[0][1].envelope.data == {"customer_id": "eve", "total_cents": 1}


@pytest.mark.parametrize(
    ("given", "code", "fault"),
    [
        ([], 2, "Say what is to be another"),
        (["--set", "total_cents"], 2, "write it like total_cents=2500"),
        (["--set", "totl=5"], 1, "no field 'totl'. It has customer_id, total_cents"),
        (["--set", "customer_id.name=5"], 1, "no field 'customer_id.name'"),
        (["--data", "{"], 2, "not JSON"),
        (["--data", "[]"], 2, "are a JSON object"),
        (["--data", '{"total_cents": NaN}'], 2, "NaN is no JSON"),
        (["--set", "total_cents=a"], 1, "not a valid order.placed: total_cents: Input should be a valid integer"),
    ],
)
def test_a_mistyped_change_is_one_line(shop, given, code, fault):
    letter = shop.fail()

    assert fault in run(letter.id, *given, "--reason", "x", "--yes", code=code).output
    assert shop.stage.dead_letters == [letter]


def test_a_field_of_a_field_is_changed_and_nothing_beside_it():
    data = {"address": {"city": "Bonn", "zip": "1"}, "a.b": 1}

    assert with_changes(data, {"address.city": "Köln", "a.b": 2}) == {"address": {"city": "Köln", "zip": "1"}, "a.b": 2}
    assert data["address"]["city"] == "Bonn"
