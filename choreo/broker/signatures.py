"""Celery's signatures in a foreign message: descriptions of calls that Celery makes after, or instead of, a call.

Celery trusts them. One that is not in Celery's form raises where nothing catches it, after the task has run: that ends
a worker of the solo pool, and a pool of threads says nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from celery.canvas import Signature

from choreo.broker.incoming import shortened
from choreo.errors import EnvelopeError
from choreo.events.message import MOST_NESTED

#: The fields of the third part of a task message: the calls that follow it.
_FOLLOWING = frozenset({"callbacks", "errbacks", "chain", "chord"})
#: Tasks of Celery that call a signature with each element of a list.
_MAPS = frozenset({"celery.map", "celery.starmap", "celery.chunks"})
#: Tasks of Celery that it runs where they are called, and never sends.
_NEVER_SENT = frozenset({"celery.chain", "celery.group", "celery.chord"})


def check_following(embed: Mapping[Any, Any]) -> None:
    """Raise `EnvelopeError` unless the third part of a task message holds signatures where Celery looks for them."""
    if strange := embed.keys() - _FOLLOWING:
        raise EnvelopeError(f"the body names {shortened(sorted(map(str, strange)))}, and Celery has no such calls")
    for name in ("callbacks", "chain"):
        _check_list(embed.get(name), name)
    _check_list(embed.get("errbacks"), "errbacks", may_be_names=True)
    if embed.get("chord") is not None:
        _check(embed["chord"], "chord", 0)


def check_builtin(task: str, args: Iterable[Any], kwargs: Mapping[Any, Any]) -> None:
    """Raise `EnvelopeError` for a call of one of Celery's own tasks in a form in which Celery never calls it."""
    if task in _NEVER_SENT:
        raise EnvelopeError(f"Celery never sends {task}: it runs it where it is called")
    if task == "celery.chord_unlock":
        _check(dict(zip(("group_id", "callback"), args, strict=False), **kwargs).get("callback"), task, 0)
    if task in _MAPS:
        form = dict(zip(("task", "it", "n"), args, strict=False)) | dict(kwargs)
        _check_map(form, task, 0)


def _check_list(value: Any, where: str, depth: int = 0, *, may_be_names: bool = False) -> None:
    if value is None:
        return
    if not isinstance(value, (list, tuple)):
        raise EnvelopeError(f"{where} is {shortened(value)}, not a list of signatures")
    for one in value:
        if not (may_be_names and isinstance(one, str)):
            _check(one, where, depth)


def _check(value: Any, where: str, depth: int) -> None:
    """Check one signature, and those in it."""
    if depth > MOST_NESTED:
        raise EnvelopeError(f"{where} is nested more than {MOST_NESTED} times")
    if not isinstance(value, dict):
        raise EnvelopeError(f"{where} holds {shortened(value)}, not a signature")
    kind = value.get("subtask_type")
    args, kwargs, options = (value.get(name) for name in ("args", "kwargs", "options"))
    is_call = isinstance(value.get("task"), str) and value["task"] and isinstance(args, (list, tuple))
    if not (is_call and isinstance(kwargs, dict) and isinstance(options, dict)):
        raise EnvelopeError(f"{where} holds {shortened(value)}, not a signature")
    if kind is not None and not (isinstance(kind, str) and kind in Signature.TYPES):
        raise EnvelopeError(f"{where} holds a signature of the kind {shortened(kind)}, which Celery does not know")
    _check_parts(kind, kwargs, where, depth + 1)
    _check_options(options, where, depth + 1)


def _check_parts(kind: str | None, kwargs: Mapping[Any, Any], where: str, depth: int) -> None:
    match kind:
        case "group" | "chain":
            tasks = kwargs.get("tasks")
            _check_list(tasks if isinstance(tasks, (list, tuple)) else [tasks], f"{where}: {kind}", depth)
        case "chord":
            header = kwargs.get("header")
            _check_list(header if isinstance(header, (list, tuple)) else [header], f"{where}: header", depth)
            if kwargs.get("body") is not None:
                _check(kwargs["body"], f"{where}: body", depth)
        case "xmap" | "xstarmap" | "chunks":
            _check_map(kwargs, f"{where}: {kind}", depth)


def _check_options(options: Mapping[Any, Any], where: str, depth: int) -> None:
    for name in ("link", "link_error"):
        value = options.get(name)
        as_list = value if isinstance(value, (list, tuple, type(None))) else [value]
        _check_list(as_list, f"{where}: {name}", depth, may_be_names=name == "link_error")
    _check_list(options.get("chain"), f"{where}: chain", depth)
    if options.get("chord") is not None:
        _check(options["chord"], f"{where}: chord", depth)
    for name in ("task_id", "queue", "routing_key", "root_id", "parent_id", "group_id"):
        if not isinstance(options.get(name), (str, type(None))):
            raise EnvelopeError(f"{where}: {name} is {shortened(options[name])}, not a text")


def _check_map(form: Mapping[Any, Any], where: str, depth: int) -> None:
    _check(form.get("task"), f"{where}: task", depth)
    if not isinstance(form.get("it"), (list, tuple)):
        raise EnvelopeError(f"{where}: it is {shortened(form.get('it'))}, not a list of arguments")
    if not isinstance(form.get("n"), (int, type(None))):
        raise EnvelopeError(f"{where}: n is {shortened(form['n'])}, not a number")
