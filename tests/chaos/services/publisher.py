"""
Places orders: `python -m tests.chaos.services.publisher FIRST LAST PER_SECOND COPIES`.

Before each order it writes down that it tries, and after it that the broker confirmed, or that `publish` raised. Every
seventh order is announced COPIES times, with one and the same id, as a web application does that sends again because
the answer got lost.
"""

import sys
import time

from choreo import PublishError
from tests.chaos.services import book
from tests.chaos.services.base import service
from tests.chaos.services.events import OrderPlaced

app = service("publisher")


def place(number: int, copies: int) -> None:
    subject = f"ORD-{number}"
    book.write("publisher", "try", subject=subject)
    try:
        envelope = app.publish(OrderPlaced(number=number), subject)
    except PublishError as error:
        book.write("publisher", "raised", subject=subject, error=str(error))
        return
    book.write("publisher", "confirmed", subject=subject, event=envelope.id)
    if copies > 1 and number % 7 == 0:
        try:
            app.publisher.announce([envelope] * (copies - 1))
        except PublishError as error:
            book.write("publisher", "not again", subject=subject, error=str(error))


def main() -> None:
    first, last, per_second, copies = (float(text) for text in sys.argv[1:])
    begun = time.monotonic()
    for count, number in enumerate(range(int(first), int(last) + 1)):
        place(number, int(copies))
        pause = begun + (count + 1) / per_second - time.monotonic()
        if pause > 0:
            time.sleep(pause)
    book.write("publisher", "finished", subject="")


if __name__ == "__main__":
    main()
