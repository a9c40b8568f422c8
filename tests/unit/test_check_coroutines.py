"""CH9: `choreo check` sees what a coroutine calls, in the source of a package."""

from pathlib import Path

import pytest

from choreo.check.checking import check
from choreo.findings import Finding

EVENTS = """
from choreo import Event

class OrderPlaced(Event):
    order_id: str = ""

class OrderShipped(Event):
    order_id: str = ""
"""
SHOP = """
import asyncio
from choreo import DeadLetter, Service
from {name}.events import OrderPlaced, OrderShipped

app = Service("{name}_shop", config=None)

@app.on(OrderPlaced)
def ship(order: OrderPlaced) -> OrderShipped:
    return OrderShipped(order_id=order.order_id)

@app.on(OrderShipped)
def follow(shipped: OrderShipped) -> None: ...

@app.dead_letter
def alarm(letter: DeadLetter) -> None: ...
"""


@pytest.fixture
def findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """Checks a package with this code in a module of its own, and returns what is found of CH9."""
    name = f"coroutines_{abs(hash(request.node.name)) % 10**9}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def find(web: str) -> list[Finding]:
        (tmp_path / name).mkdir()
        head = f"import asyncio\nfrom {name}.shop import app\nfrom {name}.events import OrderPlaced\n"
        for file, text in {"__init__": "", "events": EVENTS, "shop": SHOP, "web": head + web}.items():
            (tmp_path / name / f"{file}.py").write_text(text.replace("{name}", name))
        found = check([name], tmp_path)
        assert not [one for one in found if one.rule == "CH201"], "what the module announces is seen"
        return [one for one in found if one.rule.startswith("CH9")]

    return find


def test_an_await_of_publish_is_found_with_what_to_write(findings) -> None:
    (found,) = findings("async def place():\n    return (await app.publish_many([OrderPlaced()]))\n")

    assert (found.rule, found.subject, found.line) == ("CH901", "place", 5)
    assert found.fix == "write await app.apublish_many(...)"


def test_a_call_that_blocks_is_found_in_its_line(findings) -> None:
    (found,) = findings(
        "class Api:\n    async def place(self):\n        if True:\n            app.publish(OrderPlaced())\n"
    )

    assert (found.rule, found.level, found.line) == ("CH902", "warning", 7)
    assert "waits for the broker" in found.text


def test_a_finding_can_be_allowed_with_a_reason(findings) -> None:
    (found,) = findings(
        "async def place():\n    # choreo: allow CH902 because it is a script\n    app.publish(OrderPlaced())\n"
    )

    assert found.allowed == "it is a script"


@pytest.mark.parametrize(
    "code",
    [
        "async def place():\n    await app.apublish(OrderPlaced())\n",
        "async def place():\n    await app.apublish_many([OrderPlaced()])\n",
        "async def place():\n    await asyncio.to_thread(app.publish, OrderPlaced())\n    app.publish\n",
        "async def place():\n    await asyncio.to_thread(lambda: app.publish(OrderPlaced()))\n",
        "async def place():\n    def send():\n        app.publish(OrderPlaced())\n    await asyncio.to_thread(send)\n",
        "def place():\n    app.publish(OrderPlaced())\n",
        "import redis\nclient = redis.Redis()\nasync def place():\n    await client.publish('a', 'b')\n",
        "async def place(client):\n    await client.publish('a', 'b')\n    app.backlog()\n",
    ],
    ids=["apublish", "apublish_many", "to_thread", "lambda", "function", "def", "redis", "parameter"],
)
def test_what_blocks_no_event_loop_is_no_finding(findings, code: str) -> None:
    assert findings(code) == []
