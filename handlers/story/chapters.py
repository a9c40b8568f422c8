"""The five chapters. Each prints its events as they happen, and raises `StoryError` if one of them fails."""

import textwrap

from kombu import Connection

from choreo.cli.dead_letters import headlines
from choreo.cli.letter_repairs import replayed
from handlers import loyalty, notification, payment
from handlers.story.paper import WIDTH
from handlers.story.stage import Order, Stage

#: Restaurants. Names of customers and restaurants decide the outcome: see CARDS and CLOSED in the services.
PIZZA, CLOSED = "pizza-palace", "night-owl"
#: What is not shown: the handler and the story of analytics. It receives every event, and would double every line.
QUIET = ("count_event", "delivery")
#: Also hides the refund, which watches every charge, in chapters without a refund.
NO_REFUND = (*QUIET, "refund_customer")


def happy(stage: Stage) -> None:
    """An order succeeds."""
    stage.chapter(
        "1. Everybody does their part",
        "alice orders for 25.00. The restaurant and the payment begin at once; the driver waits for both.",
        leave_out=NO_REFUND,
    )
    alice = stage.place("alice", PIZZA, ["margherita", "tiramisu"], 2500)
    stage.until("alice knows her driver and has 25 points", lambda: told(alice) and loyalty.balance("alice") == 25)
    stage.paper.quote("alice", message(alice))


def rejected(stage: Stage) -> None:
    """A restaurant rejects an order, and the customer gets a refund."""
    stage.chapter(
        "2. The restaurant says no",
        "bob orders from a kitchen that is closed, and is charged at the same moment. No service tells payment to "
        "refund him: payment undoes a charge of a rejected order, and either may come first.",
        leave_out=QUIET,
    )
    bob = stage.place("bob", CLOSED, ["ramen"], 1450)
    stage.until("bob has his money back", lambda: told(bob) and refunds(bob) == 1)
    stage.until("bob's points are withdrawn", lambda: withdrawn(bob))
    stage.paper.quote("bob", message(bob))


def flaky(stage: Stage) -> None:
    """A charge succeeds at the third attempt."""
    stage.chapter(
        "3. The payment provider does not answer",
        "carol's payment times out twice. Payment tries again, a little later each time; the kitchen cooks meanwhile.",
        leave_out=NO_REFUND,
    )
    carol = stage.place("carol", PIZZA, ["calzone"], 1190)
    stage.until("carol is charged at the third attempt", lambda: charges(carol) == 1 and stage.failures(carol) == 2)
    stage.until("carol knows her driver", lambda: told(carol))
    stage.until("carol has her points", lambda: loyalty.balance("carol") == 11)
    stage.paper.quote("carol", message(carol))


def dead_letter(stage: Stage) -> None:
    """A text message becomes a dead letter, and is replayed."""
    stage.chapter(
        "4. A dead letter, and a second chance",
        "The SMS gateway is down, for longer than notification wants to try. Nothing else has to wait for it.",
        leave_out=NO_REFUND,
    )
    notification.gateway_outage().touch()
    dave = stage.place("dave", PIZZA, ["quattro formaggi"], 1650)
    letters = notification.app.dead_letters
    stage.until("dave's message has failed three times", lambda: stage.failures(dave) == 3)
    stage.until("it is a dead letter", lambda: bool(letters.find("notification")) and alarmed(dave))
    (letter,) = letters.find("notification")
    stage.paper.prose()
    stage.paper.verbatim([f"$ choreo dead-letters show {letter.id}", *headlines(letter), "..."])
    stage.paper.prose()
    stage.paper.prose("The gateway works again. The event goes to the handler that failed, and to no other:")
    stage.paper.prose()
    notification.gateway_outage().unlink()
    said = replayed(letters.replay(letter.id))
    stage.paper.verbatim([f"$ choreo dead-letters replay {letter.id}", *textwrap.wrap(said, WIDTH - 4)])
    stage.paper.prose()
    stage.until("dave is told at last", lambda: told(dave) and not letters.find("notification"))
    stage.paper.quote("dave", message(dave))


def loyalty_is_down(stage: Stage) -> None:
    """A stopped service catches up."""
    stage.chapter(
        "5. A service is stopped, and nobody notices",
        "loyalty is taken down for maintenance. eve and frank order all the same.",
        leave_out=NO_REFUND,
    )
    stage.platform.stop("loyalty")
    eve = stage.place("eve", PIZZA, ["lasagne", "insalata"], 2280)
    frank = stage.place("frank", PIZZA, ["diavola"], 1320)
    stage.until("eve and frank know their drivers", lambda: told(eve) and told(frank))
    stage.paper.prose()
    stage.paper.prose(
        f"Both are served. {backlog()} events wait in the queue loyalty.award_points. loyalty is started again:"
    )
    stage.start("loyalty")
    stage.paper.words(end=True)
    stage.until("loyalty has caught up", lambda: loyalty.balance("eve") == 22 and loyalty.balance("frank") == 13)
    stage.paper.prose()
    stage.paper.prose("eve has her 22 points and frank his 13: loyalty has missed no event.")


#: The chapters in the order of the story.
CHAPTERS = (happy, rejected, flaky, dead_letter, loyalty_is_down)


def told(order: Order) -> bool:
    """Return True if the customer was sent a message."""
    return bool(notification.ledger.rows("SELECT 1 FROM messages WHERE order_id = ?", order.id))


def message(order: Order) -> str:
    """Return the message to the customer."""
    (row,) = notification.ledger.rows("SELECT text FROM messages WHERE order_id = ?", order.id)
    return str(row["text"])


def alarmed(order: Order) -> bool:
    """Return True if the operator has an alarm about the order."""
    return bool(notification.ledger.rows("SELECT 1 FROM alarms WHERE order_id = ?", order.id))


def charges(order: Order) -> int:
    """Return the number of charges for the order."""
    return len(payment.ledger.rows("SELECT 1 FROM charges WHERE order_id = ?", order.id))


def refunds(order: Order) -> int:
    """Return the number of refunds for the order."""
    return len(payment.ledger.rows("SELECT 1 FROM refunds WHERE order_id = ?", order.id))


def withdrawn(order: Order) -> bool:
    """Return True if the points of the order were added and withdrawn."""
    return len(loyalty.ledger.rows("SELECT 1 FROM points WHERE order_id = ?", order.id)) == 2


def backlog() -> int:
    """Return the number of events in loyalty's queue."""
    connection: Connection
    with loyalty.app.connection_for_read() as connection:
        queue = loyalty.app.amqp.queues[loyalty.app.runtime.topology.name_of("loyalty.award_points")]
        return int(queue.bind(connection.default_channel).queue_declare(passive=True).message_count)
