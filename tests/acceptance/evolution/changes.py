"""Five changes of an event, each as the source of a shop before it, after it, and done without care."""

from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import indent

from choreo import Reason

#: Of the old code: this order is tried again later, as long as the old code runs; and this one meets a fault of it.
LATER, FAULTY = 0, 1

_EVENTS = '''\
"""The events of a shop."""

from typing import Any, Literal

from choreo import Event, Upcast


class CartCheckedOut(Event):
    number: int


{function}class OrderPlaced(Event{arguments}):
    number: int
{fields}
'''
_SERVICE = """\
import os

import redis
from pydantic import BaseModel

from choreo import PermanentFailure, Retry, RetryLater, Service
from shop.events import CartCheckedOut, OrderPlaced

PLACE = {{f"choreo_{{name}}": os.environ[f"CHOREO_{{name.upper()}}"] for name in ("store_url", "namespace")}}
app = Service("{name}", broker=os.environ["CHOREO_BROKER_URL"], config=PLACE | {{"choreo_version": "{release}"}})
"""
_ORDER = """

@app.on(CartCheckedOut)
def place(cart: CartCheckedOut) -> OrderPlaced:
    number = cart.number
    return OrderPlaced(number=number, {announced})
"""
_BILLING = """
notebook = redis.Redis.from_url(os.environ["CHOREO_STORE_URL"])


{view}@app.on(OrderPlaced, retry=Retry(times=1000))
def charge(order: {reader}) -> None:
{fault}    notebook.rpush(f"{{app.conf.choreo_namespace}}:charged", f"{{order.number}} {{{read}}}")
"""
_FAULT = f"""\
if order.number == {LATER}:
    notebook.set(f"{{app.conf.choreo_namespace}}:tried", 1)
    raise RetryLater(2)
if order.number == {FAULTY}:
    raise PermanentFailure("a fault of the old code")
"""


@dataclass(frozen=True)
class Code:
    """How one release of the shop declares, announces and reads the event."""

    #: The lines of the class behind ``number``.
    fields: str
    #: Arguments of the constructor, an expression with ``number``.
    announced: str
    #: An expression with ``order``: what the handler notes.
    read: str
    #: Arguments of the class, behind a comma.
    arguments: str = ""
    #: That of an upcaster.
    function: str = ""

    #: The lines of a view with which the handler reads the event. "": it takes the class.
    view: str = ""

    def write(self, tree: Path, release: str, fault: str = "") -> None:
        """Write the package ``shop`` into a directory."""
        shop = tree / "shop"
        shop.mkdir(parents=True, exist_ok=True)
        (shop / "__init__.py").touch()
        function = f"{self.function}\n\n\n" if self.function else ""
        fields = indent(self.fields, "    ")
        (shop / "events.py").write_text(_EVENTS.format(function=function, arguments=self.arguments, fields=fields))
        order, billing = (_SERVICE.format(name=name, release=release) for name in ("order", "billing"))
        (shop / "order.py").write_text(order + _ORDER.format(announced=self.announced))
        (shop / "billing.py").write_text(billing + self._billing(fault))

    def _billing(self, fault: str) -> str:
        view = f"class Total(BaseModel):\n{indent(self.view, '    ')}\n\n\n" if self.view else ""
        reader = "Total" if self.view else "OrderPlaced"
        return _BILLING.format(fault=indent(fault, "    "), read=self.read, view=view, reader=reader)

    def write_first(self, tree: Path) -> None:
        """The same with the faults of the old code."""
        self.write(tree, "1.0", _FAULT)


@dataclass(frozen=True)
class Change:
    """A change of an event, and what is to be said when it is deployed in the wrong way."""

    before: Code
    after: Code
    #: The services in the order in which they are deployed.
    order: tuple[str, str]
    #: The service that is deployed first in the wrong order.
    wrong: str
    #: What an order is noted as, with its number.
    noted: str
    #: What `choreo can-deploy` says of the wrong order, in one line.
    refused: str
    #: The rule by which `choreo events diff --live` refuses it, too. "": it tells the order, and refuses nothing.
    rule: str
    #: The reason of the dead letters that the wrong order makes, and what they say.
    reason: Reason
    error: str
    #: The code of the readers, if that of after is the second step. None: that of after.
    between: Code | None = None
    #: The code that is deployed in the wrong order. None: that of after.
    careless: Code | None = None


READERS_FIRST, PUBLISHERS_FIRST = ("billing", "order"), ("order", "billing")

_TOTAL = Code("total: int", "total=int(f'7{number}')", "order.total")
_COUPON = Code("total: int\ncoupon: str", "total=int(f'7{number}'), coupon='none'", "order.total")
_SPLIT = """\
def with_two_names(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data.pop("name").partition(" ")
    return {**data, "first_name": first, "last_name": last}"""
_NARROWED = """\
def without_drafts(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "state": {"draft": "open"}.get(data["state"], data["state"])}"""
_CURRENCY = Code(
    "total: int\ncurrency: str",
    "total=int(f'7{number}'), currency='EUR'",
    "order.total} {order.currency",
)
_STATE = Code('state: Literal["open", "paid"]', "state='open'", "order.state")

#: Of old readers that get the next version.
_UNREAD = (
    "billing 1.0 still reads order.placed of version 1 only, not 2 (billing.charge)"
    " · fix: deploy billing of this checkout first"
)
_VERSION = "has version 2, and OrderPlaced reads version 1. Deploy code that knows version 2"

CHANGES = {
    "rename": Change(
        _TOTAL,
        Code(
            "total_cents: int",
            "total_cents=int(f'7{number}')",
            "order.total_cents",
            ', version=2, upcasters=[Upcast(1, renamed={"total": "total_cents"})]',
        ),
        READERS_FIRST,
        "order",
        "{number} 7{number}",
        refused=_UNREAD,
        rule="",
        reason=Reason.VERSION,
        error=_VERSION,
    ),
    "remove": Change(
        _COUPON,
        _TOTAL,
        READERS_FIRST,
        "order",
        "{number} 7{number}",
        refused="billing 1.0 still reads `coupon` of order.placed (billing.charge): coupon is read and never written"
        " · fix: deploy billing of this checkout first",
        rule="field-removed",
        reason=Reason.UNREADABLE,
        error="coupon: Field required",
        between=replace(_COUPON, view="number: int\ntotal: int"),
    ),
    "require": Change(
        Code("total: int", "total=int(f'7{number}')", "order.total} EUR{''"),
        Code(
            _CURRENCY.fields,
            _CURRENCY.announced,
            _CURRENCY.read,
            ', version=2, readable_by=1, upcasters=[Upcast(1, defaults={"currency": "EUR"})]',
        ),
        PUBLISHERS_FIRST,
        "billing",
        "{number} 7{number} EUR",
        refused="at v1: billing reads `currency` of order.placed (billing.charge): currency is read and never written"
        " · fix: give it a default, or write the next version=",
        rule="field-required",
        reason=Reason.UNREADABLE,
        error="currency: Field required",
        careless=_CURRENCY,
    ),
    "split": Change(
        Code("name: str", "name=f'Ada {number}'", "order.name"),
        Code(
            "first_name: str\nlast_name: str",
            "first_name='Ada', last_name=str(number)",
            "order.first_name} {order.last_name",
            ", version=2, upcasters=[Upcast(1, with_two_names)]",
            _SPLIT,
        ),
        READERS_FIRST,
        "order",
        "{number} Ada {number}",
        refused=_UNREAD,
        rule="",
        reason=Reason.VERSION,
        error=_VERSION,
    ),
    "narrow": Change(
        Code('state: Literal["draft", "open", "paid"]', "state='draft'", "order.state.replace('draft', 'open')"),
        Code(
            _STATE.fields,
            _STATE.announced,
            _STATE.read,
            ", version=2, readable_by=1, upcasters=[Upcast(1, without_drafts)]",
            _NARROWED,
        ),
        PUBLISHERS_FIRST,
        "billing",
        "{number} open",
        refused="at v1: billing reads `state` of order.placed (billing.charge): "
        'state is written as "draft" and read as "open" or "paid"'
        " · fix: keep the value, or write the next version=",
        rule="value-removed",
        reason=Reason.UNREADABLE,
        error="state: Input should be",
        careless=_STATE,
    ),
}
