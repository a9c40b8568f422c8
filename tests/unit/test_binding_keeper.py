"""The binding keeper, without a broker: what it says of what it does."""

import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from choreo.events.patterns import Binding
from choreo.store.register import Declared
from choreo.worker.bindings import BindingKeeper

GONE, BACK = ("payment.refund", "order.placed"), ("payment.charge", "order.placed")


class Broker:
    """Notes what is removed and made."""

    def __init__(self) -> None:
        self.removed, self.made = list[Binding](), list[Binding]()

    def remove(self, bindings: Sequence[Binding]) -> None:
        self.removed += bindings

    def make(self, bindings: Sequence[Binding]) -> None:
        self.made += bindings


def test_it_says_what_it_unbinds_and_what_it_binds_again_since_it_was_applied_meanwhile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = Broker()

    def declare(*_: Any, removed: Sequence[Binding] = (), **__: Any) -> Declared:
        return Declared(known=True, to_restore=[BACK]) if removed else Declared(known=True, stale=[GONE, BACK])

    register: Any = SimpleNamespace(declare=declare)
    undeclared: Any = SimpleNamespace(find=lambda _: ())
    keeper = BindingKeeper("payment", "old", {}, register, broker, undeclared)  # type: ignore[arg-type]

    with caplog.at_level(logging.WARNING):
        keeper.look()

    assert (broker.removed, broker.made) == ([GONE, BACK], [BACK])
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == (
        "unbound payment.refund from order.placed, since no worker declares it any more. Are its workers still to "
        "come? Then `choreo topology apply` binds it until they start (--hold)"
    )
    assert said[2:] == ["bound payment.charge to order.placed again, since it was declared meanwhile"]
