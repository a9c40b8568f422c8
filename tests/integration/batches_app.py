"""The service that the tests of batches run: it notes each call, and does what the events say."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

import redis

from choreo import Batch, Context, Event, Retry, Service, Terms
from choreo.fast.fused_store import FusedStore
from choreo.store.redis import RedisStore

SETTINGS = json.loads(os.environ["CHOREO_TEST_SETTINGS"])
#: Where the handlers take their notes.
NOTES = redis.Redis.from_url(SETTINGS["choreo_store_url"], decode_responses=True)
NAMESPACE = SETTINGS["choreo_namespace"]
SIZE = int(SETTINGS.pop("size", 10))
WAIT = float(SETTINGS.pop("wait", 0.3))
LIMITS = {name: SETTINGS.pop(name) for name in ("time_limit", "soft_time_limit") if name in SETTINGS}

#: Whether the handler is an `async def`.
IS_COROUTINE = SETTINGS.pop("coroutine", False)

#: "before" or "after": the first process that commits a batch is killed there.
DIES = SETTINGS.pop("dies", "")

app = Service(
    "payment",
    broker=os.environ["CHOREO_TEST_BROKER"],
    config=SETTINGS,
    terms=Terms(lease=timedelta(seconds=SETTINGS.pop("lease", 3)), max_deliveries=3),
)


class BookSold(Event, type="batches_app.book_sold"):
    number: int = 0
    #: Whether its handler fails when this event is among those that it is called with.
    fails: bool = False
    #: Whether it kills its process then.
    kills: bool = False
    #: Whether it waits then until the test lets it go on.
    waits: bool = False
    #: How long it takes then.
    seconds: float = 0.0


class BookIndexed(Event, type="batches_app.book_indexed"):
    number: int = 0


def note(what: str, value: object) -> None:
    NOTES.rpush(f"{NAMESPACE}:{what}", json.dumps(value))


def index(books: list[BookSold], context: Context) -> list[BookIndexed]:
    begin(books)
    while must_wait(books):
        time.sleep(0.02)
    time.sleep(sum(book.seconds for book in books))
    return finish(books, context)


async def index_async(books: list[BookSold], context: Context) -> list[BookIndexed]:
    begin(books)
    while must_wait(books):
        await asyncio.sleep(0.02)
    await asyncio.sleep(sum(book.seconds for book in books))
    return finish(books, context)


def begin(books: list[BookSold]) -> None:
    note("calls", [book.number for book in books])
    if any(book.kills for book in books):
        os.kill(os.getpid(), 9)


def must_wait(books: list[BookSold]) -> bool:
    return any(book.waits for book in books) and not NOTES.exists(f"{NAMESPACE}:open")


def finish(books: list[BookSold], context: Context) -> list[BookIndexed]:
    if any(book.fails for book in books):
        raise ValueError("a book cannot be read")
    for book in books:
        context.announce(BookIndexed(number=book.number), because=book)
    note("done", [book.number for book in books])
    return []


app.on(BookSold, batch=Batch(SIZE, WAIT), retry=Retry(times=1, first=0.1, cap=0.1), name="index", **LIMITS)(
    index_async if IS_COROUTINE else index
)


@app.on(BookIndexed)
def count(indexed: BookIndexed) -> None:
    note("counted", indexed.number)


def die_once(commit: Callable[..., Any]) -> Callable[..., Any]:
    """The method, in whose first call in any process that process is killed."""

    @wraps(commit)
    def call(*args: Any) -> Any:
        is_first = NOTES.set(f"{NAMESPACE}:died", os.getpid(), nx=True)
        answer = None if is_first and DIES == "before" else commit(*args)
        if is_first:
            os.kill(os.getpid(), 9)
        return answer

    return call


if DIES:
    for store in (RedisStore, FusedStore):
        store.commit_as_one = die_once(store.commit_as_one)  # type: ignore[method-assign]
