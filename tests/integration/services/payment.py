"""Does with an order what the order says."""

import os
import signal
import time
from datetime import timedelta
from typing import Any

from choreo import Context, DeadLetter, PermanentFailure, Retry, RetryLater, Terms
from tests.integration.services.making import made, note, noted
from tests.integration.services.words import OperatorCalled, OrderPlaced, PaymentCharged


class CardRefused(Exception):
    """Needs two arguments, so that pickle cannot make it again."""

    def __init__(self, card: str, why: str) -> None:
        super().__init__(f"{card}: {why}")


app = made("payment", terms=Terms(lease=timedelta(seconds=1.5), max_deliveries=2))


@app.on(OrderPlaced, retry=Retry(times=2, first=0.02, cap=0.05, never=(CardRefused,)))
def charge(order: OrderPlaced, context: Context) -> PaymentCharged | None:
    note("charge", context.subject, attempt=context.attempt, event=context.envelope.id)
    behave(order.behave, context)
    note("charged", context.subject, attempt=context.attempt)
    return PaymentCharged(attempt=context.attempt) if order.behave != "quietly" else None


def behave(how: str, context: Context) -> None:
    match how:
        case "fail":
            raise ValueError("no money")
        case "fail once" if context.attempt == 1:
            raise ValueError("not yet")
        case "fail until replayed" if noted("charge", context.subject) <= context.attempts:
            raise ValueError("no money")
        case "refuse":
            raise CardRefused("4242", "stolen")
        case "permanent":
            raise PermanentFailure("no such account")
        case "later" if context.attempt == 1:
            raise RetryLater(0.5, "the bank is closed")
        case "in an hour" if context.attempt == 1:
            raise RetryLater(3600, "the bank is closed")
        case "SystemExit":
            raise SystemExit(1)
        case "KeyboardInterrupt":
            raise KeyboardInterrupt
        case "MemoryError":
            raise MemoryError
        case "RecursionError":
            behave(how, context)
        case "CancelledError":
            raise BaseException("like asyncio.CancelledError")
        case "slow":
            time.sleep(0.1)
        case "longer than the lease":
            time.sleep(2.5)
        case "kill once" if noted("charge", context.subject) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill":
            os._exit(1)


@app.task(name="payment.plain")
def plain(*args: Any, **kwargs: Any) -> None:
    note("plain", repr(args), more=repr(kwargs))


@app.dead_letter
def tell(letter: DeadLetter) -> OperatorCalled:
    note("told", letter.subject, letter=letter.id, reason=letter.reason)
    if letter.subject.endswith("-unreachable") and noted("told", letter.subject) < 3:
        raise ConnectionError("the operator is away")
    return OperatorCalled(letter=letter.id)
