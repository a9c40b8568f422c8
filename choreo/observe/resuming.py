"""How a pause ends, and what an operator does about it."""

from collections.abc import Sequence

from choreo.observe.cause import command
from choreo.store.pauses import BREAKER, Pause


def resume(pause: Pause) -> str:
    """The command that ends a pause."""
    return command("choreo", "resume", pause.handler)


def is_open_breaker(pause: Pause) -> bool:
    """True if the handler goes on by itself, as soon as one event succeeds."""
    return pause.by == BREAKER and pause.is_stop


def resuming(pause: Pause, next_probe: str = "") -> Sequence[str]:
    """The next steps. ``next_probe`` is `Pause.next_probe`, for a breaker that probes."""
    if not is_open_breaker(pause):
        return (resume(pause),)
    probe = f" ({next_probe})" if next_probe else ""
    return (
        f"# mend what it depends on: it then goes on by itself{probe}",
        "# to hurry, once that is mended:",
        resume(pause),
    )


def hint(pause: Pause) -> str:
    """How it ends, in one sentence: ```choreo resume payment.charge` ends it``."""
    if is_open_breaker(pause):
        return f"it goes on by itself once what it depends on is mended, and `{resume(pause)}` hurries that"
    return f"`{resume(pause)}` ends it{' earlier' if pause.until else ''}"
