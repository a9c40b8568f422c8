"""The README's code and commands, run as printed."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import DEADLINE, eventually

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", README, re.DOTALL)


def files() -> dict[str, str]:
    """The blocks that begin with a file's name."""
    named = (re.match(r"# (\S+\.py)\n", code) for language, code in BLOCKS if language == "python")
    return {match[1]: match.string for match in named if match}


def commands() -> list[str]:
    return [line[2:] for language, code in BLOCKS if language == "console" for line in code.splitlines()]


def command(beginning: str) -> list[str]:
    (line,) = [line for line in commands() if line.startswith(beginning)]
    name, *arguments = shlex.split(line, comments=True)
    return [str(Path(sys.executable).with_name(name)), *arguments]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    for name, code in files().items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    (tmp_path / "shop" / "__init__.py").touch()
    return tmp_path


def test_the_first_example_works_as_printed(shop: Path, tmp_path: Path) -> None:
    # Where choreo is installed from a checkout in editable mode, the checkout's own would be found.
    assert (shop / "celeryconfig.py").exists()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("CHOREO_", "CELERY_"))}
    said = tmp_path / "up.log"
    with said.open("w") as log:
        up = subprocess.Popen(command("choreo up"), cwd=shop, env=environment, stdout=log, stderr=log)
    try:
        line = eventually(
            lambda: re.search(r"export CHOREO_BROKER_URL=(\S+)", said.read_text()), reason="choreo up says where it is"
        )
        environment["CHOREO_BROKER_URL"] = shlex.split(line[1])[0]

        published = subprocess.run(
            command("choreo publish"), cwd=shop, env=environment, capture_output=True, text=True, timeout=DEADLINE
        )

        assert published.returncode == 0, published.stderr
        assert "order.placed ORD-1 announced" in published.stdout
        eventually(lambda: "alice gets 25 points" in said.read_text(), reason=said.read_text())

        pinged = subprocess.run(
            command("celery -A shop.payment inspect"),
            cwd=shop,
            env=environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )

        assert pinged.returncode == 0, pinged.stderr
        assert re.findall(r"->  (\w+)@", pinged.stdout) == ["payment"]
    finally:
        up.send_signal(signal.SIGINT)
        try:
            assert up.wait(DEADLINE) == 0
        finally:
            up.kill()


def test_the_make_commands_exist() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    targets = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_nobody_is_sent_to_the_package_of_that_name_on_pypi() -> None:
    # It computes orbits; ours is celery-choreo. What the code says to users is searched too.
    root = Path(__file__).parents[2]
    texts = [*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("choreo/**/*.py"), *root.glob("handlers/**/*")]

    for path in texts:
        if path.suffix in (".md", ".py"):
            assert not re.search(r"pip install\W+choreo\b", path.read_text()), path


def test_the_declarations_that_are_shown_are_accepted() -> None:
    (declarations,) = [code for _, code in BLOCKS if code.startswith("@app.on(OrderPlaced, retry=")]
    names: dict[str, object] = {}
    exec(PREAMBLE, names)
    declared, publishing = declarations.rsplit("\napp.publish", 1)

    exec(declared, names)

    app = names["app"]
    handlers = [subscription.name for subscription in app.subscriptions]  # type: ignore[attr-defined]
    shown = ["charge_customer", "book", "count", "assign_driver", "refund_customer", "page_someone"]
    assert handlers == [f"shop.{name}" for name in shown]
    assert publishing.startswith("(OrderPlaced(...), subject=")


PREAMBLE = """
from datetime import timedelta
from choreo import Breaker, DeadLetter, DeadLetterRecorded, Envelope, Event, Retry, Service

class OrderPlaced(Event): pass
class OrderConfirmed(Event): pass
class OrderRejected(Event): pass
class OrderCancelled(Event): pass
class PaymentCharged(Event): pass
class PaymentFailed(Event): pass
class PaymentRefunded(Event): pass
class DriverAssigned(Event): pass
class CardRefused(Exception): pass

def give_up(confirmed: OrderConfirmed | None, charged: PaymentCharged | None) -> None: ...

app = Service("shop", config=None)
"""
