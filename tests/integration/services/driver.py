"""Joins."""

import os
from datetime import timedelta

from choreo import Context, DeadLetter, Envelope, PermanentFailure, Retry, Several, StoryOverdue, Terms
from tests.integration.services.making import made, note, noted
from tests.integration.services.words import (
    BasketFilled,
    BookLent,
    BookReturned,
    DriverAssigned,
    GuestArrived,
    ItemPacked,
    MealCooked,
    OrderConfirmed,
    OrderRejected,
    ParcelDelivered,
    ParcelFound,
    ParcelLost,
    ParcelSent,
    ParcelTraced,
    ParcelWeighed,
    PaymentCharged,
    ReminderSent,
    TableSet,
    WineOpened,
)

#: A duplicate that meets a running join waits for the rest of the lease, so that is short here.
TERMS = Terms(lease=timedelta(seconds=1.5))

app = made("driver", retry=Retry(times=1, first=0.02, cap=0.02), terms=TERMS)


@app.join(OrderConfirmed, PaymentCharged, unless=OrderRejected, within=timedelta(hours=1))
def assign(confirmed: OrderConfirmed, charged: PaymentCharged) -> DriverAssigned:
    note("assign", confirmed.meta.subject, parts=[confirmed.meta.type, charged.meta.type])
    return DriverAssigned()


def give_up(cooked: MealCooked | None, laid: TableSet | None) -> DriverAssigned:
    arrived = cooked or laid
    assert arrived is not None
    note("give_up", arrived.meta.subject, cooked=cooked is not None, laid=laid is not None)
    return DriverAssigned(driver_id="none")


@app.join(MealCooked, TableSet, within=timedelta(seconds=1), on_timeout=give_up)
def serve(cooked: MealCooked, laid: TableSet) -> None:
    note("serve", cooked.meta.subject)


@app.join(GuestArrived, WineOpened, within=timedelta(seconds=0.5))
def pour(guest: Envelope, wine: Envelope) -> None:
    note("pour", guest.subject)


@app.join(
    BasketFilled,
    Several(ItemPacked, per="items", of=BasketFilled),
    by={BasketFilled: None, ItemPacked: "basket"},
    within=timedelta(hours=1),
)
def collect(basket: BasketFilled, items: list[ItemPacked], context: Context) -> None:
    note("collect", context.subject, items=sorted(item.meta.subject for item in items))
    if any(item.behave == "kill" for item in items) and noted("collect", context.subject) == 1:
        os._exit(1)
    if any(item.behave == "refuse" for item in items) and noted("collect", context.subject) == 1:
        raise PermanentFailure("the van is full")


@app.join(BookLent, BookReturned, within=timedelta(hours=1), rounds=True)
def end_loan(lent: BookLent, returned: BookReturned) -> None:
    note("end_loan", lent.meta.subject, parts=[lent.meta.id, returned.meta.id])


app.story("transport", begins=ParcelSent, steps=[ParcelWeighed], ends=ParcelDelivered, within=timedelta(hours=1))
app.story("search", begins=ParcelLost, steps=[ParcelTraced], ends=ParcelFound, within=timedelta(seconds=1))


@app.on(StoryOverdue)
def search_again(overdue: StoryOverdue, context: Context) -> None:
    note("search_again", context.subject, key=overdue.key, story=overdue.story, missing=overdue.missing)


@app.on(ReminderSent)
def remind(reminder: ReminderSent) -> None:
    note("remind", reminder.meta.subject, due=reminder.meta.time.timestamp(), event=reminder.meta.id)


@app.dead_letter
def tell(letter: DeadLetter) -> None:
    note("told", letter.subject, letter=letter.id, reason=letter.reason)
