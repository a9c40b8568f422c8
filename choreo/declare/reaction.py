"""Reads the annotations of a handler function: the events that it takes, and the events that it may announce."""

import inspect
import types
import typing
import warnings
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from reprlib import Repr
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from choreo.declare.context import Context
from choreo.errors import DeclarationError, EnvelopeError, InvalidEventError, UndeclaredEventWarning
from choreo.events import naming
from choreo.events.envelope import Envelope
from choreo.events.event import Event
from choreo.events.travel import faults_of, way_of
from choreo.events.upcast import data_for
from choreo.events.versions import newest, reader_among

Function = Callable[..., Any]

_shortener = Repr()
_shortener.maxstring = _shortener.maxother = 200
#: Shortens a value for an error text: a handler can return anything.
shortened = _shortener.repr

#: What a parameter takes: an event, several of a type, or None for one that has not arrived.
Given = Envelope | Sequence[Envelope] | None

#: What a call of a handler comes to: the events that it announces, or a coroutine that returns them.
Announcing = list[Envelope] | Coroutine[Any, Any, list[Envelope]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a handler."""

    name: str
    #: The classes that can read the event: event classes, or views. Empty for an envelope or a context.
    models: tuple[type[BaseModel], ...] = ()
    #: True if the parameter takes the envelope of the event.
    wants_envelope: bool = False
    #: True if the parameter takes the `Context`, not an event.
    wants_context: bool = False
    #: True if the parameter accepts None.
    optional: bool = False
    #: True if the parameter takes a list of events: `choreo.Several` in a join.
    listed: bool = False
    #: For views: the type of an event → the class that the handler listens to, in whose version the view reads it.
    heard: Mapping[str, type[Event]] = field(default_factory=dict, hash=False)
    #: The class or view that reads them all, if the parameter takes no other.
    _only: type[BaseModel] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_only", self.models[0] if len(self.models) == 1 else None)  # the class is frozen

    def take(self, arrived: Envelope | Sequence[Envelope] | None) -> object:
        """Return the argument for one event, several, or None. Raises `EnvelopeError` when their data does not fit."""
        if arrived is None:
            return None
        if isinstance(arrived, Envelope):
            return self.read(arrived)
        return [self.read(envelope) for envelope in arrived]

    def read(self, envelope: Envelope) -> object:
        """
        Return the event in the form that the handler takes.

        Raises `EnvelopeError` when its data does not fit, or its version is one that the handler cannot read.
        """
        if self.wants_envelope:
            return envelope
        model = self._only or self._reader(envelope)
        try:
            return model.read(envelope) if issubclass(model, Event) else way_of(model).read(self._seen(envelope))
        except ValidationError as error:
            raise EnvelopeError(f"{envelope} does not fit {model.__name__}: {faults_of(error)}") from error

    def classes_of(self, event_type: str) -> list[type[Event]]:
        """The classes of events, of several versions, that read this type. Empty for a view and for an envelope."""
        return [model for model in self.models if issubclass(model, Event) and model.event_type == event_type]

    def model_of(self, event_type: str) -> type[BaseModel]:
        """The class that reads the newest version of this type. The parameter takes no envelope."""
        return newest(self.classes_of(event_type)) or self.models[-1]

    def _reader(self, envelope: Envelope) -> type[BaseModel]:
        """The class that reads this event."""
        for model in self.models:
            if (
                getattr(model, "event_type", "") == envelope.type
                and getattr(model, "event_version", 0) == envelope.version
            ):
                return model
        known = self.classes_of(envelope.type)
        return reader_among(known, envelope) if known else self.models[-1]

    def _seen(self, envelope: Envelope) -> dict[str, Any]:
        """The data that a view reads."""
        event = self.heard.get(envelope.type)
        return envelope.data if event is None or event.event_version == envelope.version else data_for(event, envelope)


@dataclass(frozen=True, slots=True)
class Reaction:
    """A handler function with its annotations."""

    function: Function
    parameters: tuple[Parameter, ...]
    #: The events that the return annotation names. None if there is no annotation.
    announces: tuple[type[Event], ...] | None

    @property
    def inputs(self) -> list[Parameter]:
        """The parameters that take an event."""
        return [parameter for parameter in self.parameters if not parameter.wants_context]

    def hearing(self, classes: Iterable[type[Event]]) -> "Reaction":
        """The reaction in a handler that listens to these classes of events: its views read their versions."""
        heard = {event.event_type: event for event in classes}
        parameters = tuple(replace(one, heard=heard) if _is_view(one) else one for one in self.parameters)
        return replace(self, parameters=parameters)

    @property
    def is_async(self) -> bool:
        """True if calling it returns a coroutine: see `AsyncReaction`."""
        return False

    def __call__(self, given: Sequence[Given], context: Context) -> Announcing:
        """
        Call the function with these events, in the order of its inputs, and list the events that it announces.

        Raises what the function raises, and `EnvelopeError` for an event whose data does not fit.
        """
        with context.active():
            self.call(given, context)
        return self.announced(context)

    def call(self, given: Sequence[Given], context: Context) -> None:
        """Call the function inside its context, which collects the events that it returns."""
        result = self.function(**self.arguments(given, context))
        if isinstance(result, types.CoroutineType):
            # A decorator hides that the function is async.
            from choreo import event_loop

            result = event_loop.wait(result, context.handler)
        # A generator runs while it is listed, so it must still be inside the context.
        for event in returned(result, self.function):
            context.announce(event)

    def arguments(self, given: Sequence[Given], context: Context) -> dict[str, object]:
        """The arguments of the function. Raises `EnvelopeError` for an event whose data does not fit."""
        waiting = iter(given)
        arguments: dict[str, object] = {}
        for parameter in self.parameters:
            if parameter.wants_context:
                arguments[parameter.name] = context
            else:
                arguments[parameter.name] = parameter.take(next(waiting))
        return arguments

    def announced(self, context: Context) -> list[Envelope]:
        """The events that leave. Warns of those that the return annotation does not name."""
        leaving = context.leaving
        self._check(leaving)
        return leaving

    def _check(self, announced: Iterable[Envelope]) -> None:
        if self.announces is None:
            return
        for envelope in announced:
            if all(envelope.type != event.event_type for event in self.announces):
                warnings.warn(
                    f"{describe(self.function)} announced {envelope.type}, which its return annotation does not name. "
                    f"The event leaves all the same. Add its class to the annotation, which tells readers and type "
                    f"checkers what the handler announces.",
                    UndeclaredEventWarning,
                    stacklevel=2,
                )


@dataclass(frozen=True, slots=True)
class AsyncReaction(Reaction):
    """
    A handler function that is ``async def``. Calling it returns a coroutine, which calls the function.

    The coroutine returns the events that the function announces, and raises as a plain `Reaction` does. An
    asynchronous generator announces what it yields.
    """

    @property
    def is_async(self) -> bool:
        """True."""
        return True

    def __call__(self, given: Sequence[Given], context: Context) -> Announcing:
        """Return the coroutine. Nothing has run yet."""
        return self._answer(given, context)

    async def _answer(self, given: Sequence[Given], context: Context) -> list[Envelope]:
        with context.active():
            await self.await_call(given, context)
        return self.announced(context)

    async def await_call(self, given: Sequence[Given], context: Context) -> None:
        """Call and await the function inside its context, which collects the events that it returns."""
        result = self.function(**self.arguments(given, context))
        for event in await awaited(result, self.function):
            context.announce(event)


async def awaited(result: Any, function: Function) -> list[Event]:
    """The events that an ``async def`` function comes to. Raises `InvalidEventError` for anything else."""
    if isinstance(result, AsyncIterable):
        return returned([event async for event in result], function)
    return returned(await result, function)


def inspect_function(function: Function) -> Reaction:
    """
    Read the annotations of a handler: a function, a method, a partial, or an object that can be called.

    A parameter with a default that reads no event keeps its default. Raises `DeclarationError`, which names the fault
    and the correct form.
    """
    if isinstance(function, staticmethod):
        function = function.__func__
    code = code_of(function)
    if isinstance(function, type) or not callable(function):
        raise DeclarationError(
            f"{function!r} is {'a class' if isinstance(function, type) else 'not a function'}. "
            f"A handler is a function: def charge_customer(...): ..."
        )
    try:
        signature = inspect.signature(function)
        hints = _hints(code, [name for name, parameter in signature.parameters.items() if _has_default(parameter)])
    except Exception as error:  # an annotation can be any code, and raise anything
        raise DeclarationError(
            f"{describe(function)}: an annotation cannot be resolved ({error!r}). Import its class at module level."
        ) from error
    _check_call(function, list(signature.parameters))
    bound = _bound(function)
    taken = {name: parameter for name, parameter in signature.parameters.items() if name not in bound}
    found = {name: _parameter(function, parameter, hints) for name, parameter in taken.items()}
    parameters = [parameter for parameter in found.values() if parameter is not None]
    if any(_is_needed(parameter, taken[parameter.name]) for parameter in parameters):
        # A view with a default, such as settings: it reads an event only if no other parameter does.
        parameters = [
            parameter for parameter in parameters if not _is_view(parameter) or not _has_default(taken[parameter.name])
        ]
    own = function, tuple(parameters), _announces(function, hints)
    return AsyncReaction(*own) if is_async(function) else Reaction(*own)


def is_async(function: Function) -> bool:
    """True for an ``async def`` function, also one that yields, and for an object with such a ``__call__``."""
    code = code_of(function)
    return inspect.iscoroutinefunction(code) or inspect.isasyncgenfunction(code)


def announced_by(function: Function) -> tuple[type[Event], ...] | None:
    """The events that the return annotation of any function names. None if there is none, or it cannot be read."""
    try:
        code = code_of(function)
        read = types.SimpleNamespace(__annotations__={"return": code.__annotations__["return"]})
        return _announces(function, typing.get_type_hints(read, _names_around(code)))
    except Exception:  # an annotation can be any code, and raise anything
        return None


def _names_around(code: Any) -> dict[str, Any]:
    """The global names of a function or class, by which its annotations are read. Code from `exec` has no module."""
    return getattr(code, "__globals__", None) or vars(inspect.getmodule(code))


def _check_call(function: Function, names: Sequence[str]) -> None:
    """Raise `DeclarationError` for a function that cannot be called with its parameters by name."""
    code = code_of(function)
    if hasattr(code, "__wrapped__") and callable(getattr(code, "register", None)):
        raise DeclarationError(
            f"{describe(function)} is a functools.singledispatch function, whose annotations do not tell which events "
            f"it takes. Declare a handler for each event: @app.on(OrderPlaced) above a function of its own. Or call it "
            f"in one: def hear(event: OrderPlaced | OrderCancelled): {getattr(code, '__name__', 'dispatch')}(event)."
        )
    try:
        real = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # it is not written in Python, and tells nothing
        return
    try:
        real.bind(**dict.fromkeys(names))
    except TypeError as error:
        if hasattr(code, "__wrapped__"):
            raise DeclarationError(
                f"{describe(function)}: a decorator above it takes no arguments by name ({error}), and a handler is "
                f"called with them. Write its inner function with *args and **kwargs, or use middleware: around=[...]."
            ) from error


def _hints(code: Any, spare: Sequence[str]) -> dict[str, Any]:
    """The annotations of a function, resolved. One of ``spare`` that cannot be resolved is left out."""
    try:
        return typing.get_type_hints(code)
    except Exception:  # an annotation can be any code, and raise anything
        annotations = dict(getattr(code, "__annotations__", {}))
        unresolved = [name for name in spare if name in annotations and not _is_resolved(code, annotations[name])]
        if not unresolved:
            raise
        # Such as a class that is imported for type checkers only.
        left = {name: annotation for name, annotation in annotations.items() if name not in unresolved}
        return typing.get_type_hints(types.SimpleNamespace(__annotations__=left), _names_around(code))


def _is_resolved(code: Any, annotation: Any) -> bool:
    try:
        typing.get_type_hints(types.SimpleNamespace(__annotations__={"it": annotation}), _names_around(code))
    except Exception:
        return False
    return True


def code_of(function: Any) -> Any:
    """The function that has the code, the name and the annotations of what is called."""
    if isinstance(function, partial):
        return code_of(function.func)
    if hasattr(function, "__qualname__") or not callable(function):
        return function
    return type(function).__call__


def name_of(function: Any) -> str:
    """The name that a handler has if none is given: of the function, or of the class of an object in snake case."""
    if isinstance(function, partial):
        return name_of(function.func)
    return getattr(function, "__name__", "") or "_".join(naming.words_of(type(function).__name__))


def _bound(function: Any) -> set[str]:
    """The parameters to which a partial gives a value by their name."""
    return set(function.keywords) | _bound(function.func) if isinstance(function, partial) else set()


def _has_default(parameter: inspect.Parameter) -> bool:
    return parameter.default is not inspect.Parameter.empty


def _is_view(parameter: Parameter) -> bool:
    return bool(parameter.models) and not any(issubclass(model, Event) for model in parameter.models)


def _is_needed(parameter: Parameter, declared: inspect.Parameter) -> bool:
    return not parameter.wants_context and not (_is_view(parameter) and _has_default(declared))


def _parameter(function: Function, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Parameter | None:
    """What a parameter reads. None: it keeps its default."""
    where = f"{describe(function)}, parameter {parameter.name!r}"
    spare = _has_default(parameter)
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        if spare:
            return None
        raise DeclarationError(f"{where}: a handler takes named parameters, not *args, **kwargs or positional-only.")
    if parameter.name not in hints:
        if spare:
            return None
        if parameter.name in ("self", "cls"):
            raise DeclarationError(
                f"{where}: this is a method, and no object has it yet. Declare it with its object: "
                f"app.on(OrderPlaced)(shop.{code_of(function).__name__}), or write a function."
            )
        raise DeclarationError(
            f"{where} has no annotation. Say what it reads: {parameter.name}: OrderPlaced (an event), a pydantic model "
            f"with the fields you need, Envelope, or Context. If it reads no event, give it a default: "
            f"{parameter.name}=..."
        )
    annotation = hints[parameter.name]
    listed = typing.get_origin(annotation) is list
    classes = _classes(typing.get_args(annotation)[0] if listed else annotation)
    optional = type(None) in classes
    models = tuple(cls for cls in classes if cls is not type(None))
    if models == (Context,) and not listed:
        return Parameter(parameter.name, wants_context=True)
    if models == (Envelope,):
        return Parameter(parameter.name, wants_envelope=True, optional=optional, listed=listed)
    if models and all(isinstance(model, type) and issubclass(model, BaseModel) for model in models):
        return Parameter(parameter.name, models, optional=optional, listed=listed)
    if spare:
        return None
    raise DeclarationError(
        f"{where} is annotated {hints[parameter.name]!r}, which cannot read an event. "
        f"Use an event class, a pydantic model with the fields you need, Envelope, or Context. If it reads no event, "
        f"give it a default."
    )


def _announces(function: Function, hints: Mapping[str, Any]) -> tuple[type[Event], ...] | None:
    if "return" not in hints:
        return None
    announced: list[type[Event]] = []
    for cls in _classes(hints["return"], inside_containers=True):
        if cls is type(None):
            continue
        if isinstance(cls, type) and issubclass(cls, Event) and not hasattr(cls, "event_type"):
            raise DeclarationError(
                f"{describe(function)} returns {cls!r}, which is the base of many events. Name those that it "
                f"may announce: -> PaymentCharged | PaymentFailed, or leave the annotation out."
            )
        if not (isinstance(cls, type) and issubclass(cls, Event)):
            raise DeclarationError(
                f"{describe(function)} returns {cls!r}, which is not an event. A handler returns an event, a list or "
                f"generator of events, or None."
            )
        announced.append(cls)
    return tuple(announced)


def _classes(annotation: Any, *, inside_containers: bool = False) -> list[Any]:
    """Split ``A | B | None`` into ``[A, B, NoneType]``. In return types ``list[A]``, ``Iterator[A]`` → ``[A]``."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return [cls for part in arguments for cls in _classes(part, inside_containers=inside_containers)]
    if inside_containers and isinstance(origin, type) and (_is_listed(origin) or issubclass(origin, AsyncIterable)):
        # Generator[A, None, None] yields its first argument only.
        inner = arguments[:1] if not issubclass(origin, tuple) else [part for part in arguments if part is not ...]
        return [cls for part in inner for cls in _classes(part, inside_containers=True)]
    return [type(None) if annotation is None else annotation]


def returned(result: object, function: Function) -> list[Event]:
    """The events that a function has returned. Raises `InvalidEventError` for anything else."""
    if result is None:
        return []
    if isinstance(result, Event):
        return [result]
    if not isinstance(result, type) and _is_listed(type(result)):
        events: list[Event] = list(cast(Iterable[Event], result))
        strange = [event for event in events if not isinstance(event, Event)]
        if not strange:
            return events
        result = strange[0]
    raise InvalidEventError(
        f"{describe(function)} returned {shortened(result)}. {_hint(result)}"
        f"A handler returns an event, a list or generator of events, or None."
    )


def _hint(result: object) -> str:
    if isinstance(result, type) and issubclass(result, Event):
        return f"That is a class of events: return {result.__name__}(...). "
    if isinstance(result, Envelope):
        return "That is the envelope of an event that was announced before. "
    return ""


def _is_listed(cls: type) -> bool:
    """True for lists and generators. Not for sets: they have no order, and an event's id depends on its position."""
    return issubclass(cls, Iterable) and not issubclass(cls, (str, bytes, Mapping, Set, BaseModel))


def describe(function: Function) -> str:
    """Return the full name of a function, or of the class of an object: ``handlers.payment.charge_customer``."""
    if isinstance(function, partial):
        return describe(function.func)
    if callable(function) and not hasattr(function, "__qualname__"):
        function = type(function)
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
