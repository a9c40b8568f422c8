"""CH6: failures that nobody sees, or that nobody makes good."""

import ast
import re
from collections.abc import Collection, Iterator

from choreo.check.platform import Platform
from choreo.check.rule import Fault, Rule
from choreo.check.spread import Flow, flow
from choreo.declare.description import HandlerDescription
from choreo.delivery.listener import no_listener
from choreo.events.patterns import matches
from choreo.findings import ERROR

#: The type of the alert about a dead letter.
_RECORDED = "dead_letter.recorded"
#: Words that tell of a failure in the type of an event.
_FAILED = frozenset("aborted canceled cancelled declined denied failed refused rejected".split())
#: Names of the methods that write to a log.
_LOGGING = frozenset("debug info warning warn error exception critical log print".split())


def _unwatched_letters(platform: Platform) -> Iterator[Fault]:
    """Services whose dead letters nobody is told of. A pattern such as "#" counts events; it is no alarm."""
    heard = {pattern for handler in platform.map.handlers for pattern in handler.hears if pattern != "#"}
    if any(matches(pattern, _RECORDED) for pattern in heard) or platform.is_heard_elsewhere(_RECORDED):
        return
    for app in platform.apps:
        if app.subscriptions and app.listener is no_listener:
            text = "it has no @app.dead_letter, and no handler hears DeadLetterRecorded"
            yield Fault(app.service_name, text, platform.spot_of(app.service_name))


def _swallowed(platform: Platform) -> Iterator[Fault]:
    for described, subscription in platform.handlers:
        found = platform.code.definition(subscription.reaction.function)
        for node in ast.walk(found[1]) if found else ():
            if isinstance(node, ast.ExceptHandler) and _is_any(node.type) and all(map(_does_nothing, node.body)):
                text = f"it catches every error in line {node.lineno}, and goes on"
                yield Fault(described.name, text, platform.spot_of(described.name))


def _not_undone(platform: Platform) -> Iterator[Fault]:
    """Effects that stand although the order has failed: see docs/compensation.md."""
    handlers = {handler.name: handler for handler in platform.map.handlers}
    leads, failures = flow(platform), _failures(platform)
    for failure in sorted(failures):
        for name, cause in _failing(platform, failure):
            took_place = [cause, *_before(leads, cause)]
            for handler in handlers.values():
                effects = _effects(handler, took_place, cause) - failures
                if handler.name == name or not effects or _is_answered(platform, handler, effects, failure):
                    continue
                told = ", ".join(sorted(effects))
                text = f"nobody undoes {told} after {failure}, which {name} can announce in the same story"
                undo = f"undoes={handler.name.partition('.')[2]}"
                fix = f'declare @app.on(..., {undo}) for {failure}, or say why it stands: no_undo="..."'
                yield Fault(handler.name, text, platform.spot_of(handler.name), fix)


def _failures(platform: Platform) -> set[str]:
    """The types of events that tell of a failure: by their names, or because an undo says so."""
    named = {event.type for event in platform.map.events if not _FAILED.isdisjoint(re.split(r"[._]", event.type))}
    return named | {one for handler in platform.map.handlers if handler.undoes for one in handler.undoes.failures}


def _failing(platform: Platform, failure: str) -> Iterator[tuple[str, str]]:
    """The handlers that announce a failure, with the types that make them do so."""
    for described, subscription in platform.handlers:
        if described.undoes is None and failure in (described.announces or ()):
            yield from ((described.name, kind) for kind in subscription.patterns if kind not in described.unless)


def _before(leads: Flow, kind: str) -> set[str]:
    """The types that lead to this one."""
    found: set[str] = set()
    left = [kind]
    while left:
        here = left.pop()
        new = {one for one, others in leads.items() if here in others} - found
        found |= new
        left += new
    return found


def _effects(handler: HandlerDescription, took_place: Collection[str], cause: str) -> set[str]:
    """What a handler announces beside the failure, or before it."""
    if (
        handler.undoes is not None
        or handler.kind == "story"
        or handler.no_undo
        or not set(handler.hears) & {*took_place}
    ):
        return set()
    announced = set(handler.announces or ())
    return announced if cause in handler.hears else announced & {*took_place}


def _is_answered(platform: Platform, handler: HandlerDescription, effects: set[str], failure: str) -> bool:
    """True if an undo, the service itself, or a handler of both events answers the failure."""
    return any(
        (other.undoes is not None and failure in other.undoes.failures and effects & {*other.undoes.effects})
        or (failure in other.hears and failure not in other.unless and other.kind != "story"
            and (other.service == handler.service or effects & {*other.hears}))
        for other in platform.map.handlers
    )  # fmt: skip


def _is_any(caught: ast.expr | None) -> bool:
    return caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))


def _does_nothing(statement: ast.stmt) -> bool:
    """True for a statement that tells nobody but the log: pass, return None, logger.exception(...)."""
    if isinstance(statement, ast.Pass | ast.Continue):
        return True
    if isinstance(statement, ast.Return):
        return statement.value is None or (isinstance(statement.value, ast.Constant) and statement.value.value is None)
    if not isinstance(statement, ast.Expr):
        return False
    call = statement.value
    if not isinstance(call, ast.Call):
        return isinstance(call, ast.Constant)
    return (call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")) in _LOGGING


RULES = (
    Rule(
        "CH601",
        "nobody is told of the dead letters of a service",
        "An event that fails for good waits as a dead letter, and nobody knows.",
        "declare @app.dead_letter, or let a service hear DeadLetterRecorded, which tells of the dead letters of all",
        _unwatched_letters,
        ERROR,
        needs_all=True,
    ),
    Rule(
        "CH602",
        "a handler swallows every error",
        "The event counts as handled: there is no retry, and no dead letter.",
        "let the error out, and name in Retry(never=...) what a retry cannot help; or catch the one error you expect",
        _swallowed,
        ERROR,
    ),
    Rule(
        "CH603",
        "an effect stands although its story has failed",
        "A customer who was charged for a rejected order wants the money back.",
        'declare a handler with undoes=, or say why the effect stands: no_undo="..."',
        _not_undone,
        needs_all=True,
    ),
)
