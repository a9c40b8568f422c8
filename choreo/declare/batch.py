"""Batches: handlers that are called with several events at once. See docs/batches.md."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from choreo.durations import is_wait
from choreo.errors import DeclarationError

if TYPE_CHECKING:
    from choreo.declare.reaction import Reaction

#: The most events of one batch. A worker keeps all of them in memory.
MOST_SIZE = 1_000
#: The longest wait for a full batch, in seconds. The events wait in a worker meanwhile.
LONGEST_WAIT = 60.0


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Calls a handler with several events at once: ``@app.on(OrderPlaced, batch=Batch(size=100, wait=0.2))``.

    The handler is called once ``size`` events are there, or ``wait`` seconds after the first of them came.
    Raises `DeclarationError` when a value is out of range.

        >>> Batch(size=500).wait
        0.2
    """

    #: The most events of one batch, from 1 to 1,000.
    size: int = 100
    #: The most seconds for which a worker waits for more events after the first one, from 0 to 60. 0: it takes those
    #: that it has.
    wait: float = 0.2

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= MOST_SIZE:
            raise DeclarationError(
                f"Batch(size={self.size!r}): the most events of one batch, a whole number from 1 to {MOST_SIZE:,}. A "
                f"worker keeps all of them in memory."
            )
        is_seconds = not isinstance(self.wait, (timedelta, bool)) and is_wait(self.wait)
        if not is_seconds or not 0 <= self.wait <= LONGEST_WAIT:
            raise DeclarationError(
                f"Batch(wait={self.wait!r}): the most seconds to wait for a full batch, a number from 0 to "
                f"{LONGEST_WAIT:g}."
            )


def checked_batch(batch: object, reaction: "Reaction", where: str, others: Mapping[str, Any]) -> Batch | None:
    """
    Return ``batch``. ``others`` are the options of the handler that do not go with a batch: name → what was given.

    Raises `DeclarationError` unless it is None or a `Batch`, goes with the other options, and fits the function.
    """
    if batch is None:
        _check_no_list(reaction, where)
        return None
    if not isinstance(batch, Batch):
        guess = f"Batch(size={batch})" if type(batch) is int else "Batch(size=100)"
        raise DeclarationError(f"{where}: batch={batch!r} is not a Batch. Write batch={guess}.")
    for name, given in others.items():
        if given is not None and given is not False and given != ():
            raise DeclarationError(f"{where}: {name}={_short(given)} does not go with batch=...: {_APART[name]}")
    if len(reaction.inputs) == 1 and not reaction.inputs[0].listed:
        (parameter,) = reaction.inputs
        read = _names(parameter.models) if parameter.models else "Envelope"
        raise DeclarationError(
            f"{where}: with batch=... it is called with several events at once, and parameter {parameter.name!r} takes "
            f"one. Write {parameter.name}: list[{read}], or leave batch= out."
        )
    return batch


#: Options that do not go with a batch, and why.
_APART = {
    "undoes": "each effect is undone on its own, as soon as it must be. Leave batch= out.",
    "sequential_by": (
        "the events of a batch are handled together, in the order in which they came to one worker. Leave one out."
    ),
    "concurrency": (
        "a batch would take a place for each of its events. The number of batches at a time is that of the worker's "
        "pool: give the handler a worker of its own with -Q and -c."
    ),
}


def _check_no_list(reaction: "Reaction", where: str) -> None:
    if len(reaction.inputs) == 1 and reaction.inputs[0].listed:
        (parameter,) = reaction.inputs
        read = _names(parameter.models) if parameter.models else "Envelope"
        raise DeclarationError(
            f"{where} takes a list of events, and a handler takes one. To get several at once, write "
            f"@app.on(..., batch=Batch(size=100, wait=0.2)); to get one at a time, write {parameter.name}: {read}. To "
            f"wait for several events of one subject, declare a join: @app.join(OrderPlaced, Several(ItemPacked, 3))."
        )


def _names(models: Iterable[type]) -> str:
    return " | ".join(model.__name__ for model in models)


def _short(given: object) -> str:
    name = getattr(given, "__name__", None)
    return name if isinstance(name, str) else repr(given)
