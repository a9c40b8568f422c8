"""choreo's settings: their names, and their checks. Celery ignores a name that it does not know."""

import os
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from enum import StrEnum
from types import FunctionType, ModuleType
from typing import Any

from celery.app.defaults import SETTING_KEYS
from celery.app.utils import Settings, filter_hidden_settings
from celery.utils.collections import ConfigurationView
from celery.utils.text import match_case

from choreo.durations import is_wait
from choreo.errors import DeclarationError
from choreo.masking import MASK, masked, shown_url

#: The settings that are choreo's.
SETTINGS = (
    "choreo_store_url",
    "choreo_namespace",
    "choreo_unheard",
    "choreo_shutdown_timeout",
    "choreo_tracing",
    "choreo_fast_lane",
    "choreo_bundles",
    "choreo_version",
    "choreo_log_format",
    "choreo_max_hops",
    "choreo_record_length",
    "choreo_record_lifetime",
    "choreo_record_sample",
    "choreo_record_events",
    "choreo_flower_changes",
    "choreo_allow_edit",
    "choreo_signing_keys",
    "choreo_signing",
    "choreo_publishers",
    "choreo_intake",
    "choreo_cloudevents_exchange",
)

#: The default of ``choreo_shutdown_timeout``, in seconds from SIGTERM. Kubernetes kills after 30, systemd after 90,
#: Docker after 10.
SHUTDOWN_TIMEOUT = 25.0

#: choreo's default of ``worker_prefetch_multiplier``.
USUAL_PREFETCH = 4

#: The default of ``choreo_max_hops``.
MAX_HOPS = 100

#: The values of ``choreo_log_format``, the default first.
LOG_FORMATS = ("text", "json")

#: The ends of the names of settings that hold the URL of a broker or a store.
_URLS = ("broker_url", "broker_read_url", "broker_write_url", "choreo_store_url")

#: The end of the name of the setting that holds keys.
_KEYS = "choreo_signing_keys"

#: The files of the module `os` in a traceback.
_OS = ("<frozen os>", os.__file__)

#: The setting without its prefix. Ignored, it would not separate the platforms that it was meant to separate.
_BARE = "namespace"


class Unheard(StrEnum):
    """The treatment of an event to which no queue is bound. Such an event is always counted."""

    IGNORE = "ignore"
    #: One warning in the log per type of event and process.
    LOG = "log"
    #: `Publisher.announce` raises `PublishError`. An event from a handler is logged: its commit has happened.
    ERROR = "error"

    @classmethod
    def of(cls, setting: str) -> "Unheard":
        """The value of the setting ``choreo_unheard``. Raises `DeclarationError` for any other value."""
        try:
            return cls(setting)
        except ValueError:
            choices = ", ".join(repr(str(choice)) for choice in cls)
            raise DeclarationError(f"choreo_unheard = {setting!r}: it takes one of {choices}.") from None


class ServiceSettings(Settings):
    """Celery's settings. Where they are shown (Flower, `inspect conf`, `celery report`), no URL has its password."""

    @classmethod
    def adopt(cls, conf: Settings | None) -> None:
        """Make Celery's own settings of this class. Celery makes them itself, and has no option for the class."""
        if conf is not None:
            object.__setattr__(conf, "__class__", cls)  # the `__setattr__` of settings makes a setting

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """The settings by name; with ``censored``, without passwords."""
        shown: dict[str, Any] = super().table(with_defaults, censored=False)
        if not censored:
            return shown
        urls = {name: value for name, value in shown.items() if name.lower().endswith(_URLS)}
        hidden = {name: _shown(value) for name, value in urls.items()}
        others = {name: value for name, value in shown.items() if name not in urls}
        # A setting of the user's own may be a URL as well.
        keys = {name: MASK for name in others if name.lower().endswith(_KEYS)}
        return {**filter_hidden_settings(masked(others | keys)), **hidden}


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return shown_url(value)
    return [_shown(part) for part in value] if isinstance(value, (list, tuple)) else value


def unreadable(source: Any, error: Exception) -> DeclarationError:
    """The error for a configuration that raises one itself. ``source`` is the module's name, or the object."""
    from choreo.places import place

    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename not in _OS] or frames
    is_environment = isinstance(error, KeyError) and frames[-1].filename in _OS
    what = f"the environment variable {error} is not set" if is_environment else f"{type(error).__name__}: {error}"
    name = source if isinstance(source, str) else type(source).__name__
    return DeclarationError(f"{name} cannot be read: {what}", place(own[-1].filename, own[-1].lineno or 0))


def rank_lowest(conf: ConfigurationView, defaults: Mapping[str, Any]) -> None:
    """
    Add defaults that rank above Celery's, and below all that the user sets.

    Celery's own `add_defaults` ranks them above the user's configuration. Each map is asked for every form of a name
    (new, old, with the prefix), so no form of the user's setting is overridden.
    """
    conf.maps.insert(len(conf.maps) - 1, defaults)
    conf.defaults.insert(len(conf.defaults) - 1, defaults)


def check_settings(conf: ConfigurationView) -> None:
    """
    Raise `DeclarationError` for a name that looks like one of `SETTINGS` and is none, and for a value that cannot work.

    Celery's option ``namespace`` is a prefix of the names of settings. If it is in lower case and no setting has it,
    the user most likely meant ``choreo_namespace``: that raises, too. An upper-case prefix ("CELERY") is accepted.
    """
    given: dict[str, Any] = {}
    for source in reversed(conf.maps[:-1]):
        given.update({name: source for name in source if isinstance(name, str)})
    prefix = conf.prefix or ""
    forms = {_form(name, prefix): name for name in SETTINGS} | {name: name for name in SETTINGS}
    if prefix and not prefix.isupper() and not any(name.startswith(_form("", prefix)) for name in given):
        raise DeclarationError(
            f"Service(namespace={prefix.rstrip('_')!r}): to Celery this is the prefix of the names of settings, and no "
            f"setting begins with {prefix!r}. To separate platforms that share a broker, write "
            f"Service(choreo_namespace={prefix.rstrip('_')!r}), or choreo_namespace in celeryconfig.py."
        )
    known = {forms[name] for name in given if name in forms}
    for name, source in given.items():
        if name not in forms and name not in SETTING_KEYS:
            _check_unknown(name, source, prefix, known)
    _check_values(conf)


def check_service_settings(names: Iterable[str]) -> None:
    """Raise `DeclarationError` for an option of a service that is meant as a setting of choreo and is none."""
    for name in names:
        if name.lower().startswith("choreo"):
            raise _unknown(name, _guesses(name.lower()), "Service")


def _check_unknown(name: str, source: Mapping[str, Any], prefix: str, known: set[str]) -> None:
    """``known`` are the settings of choreo that are set under their right names."""
    own = bool(prefix) and name.lower().startswith(prefix.lower())
    plain = name[len(prefix) :] if own else name
    low = plain.lower()
    if low in SETTINGS:
        wrong, guesses = low not in known, [low]
    elif low.startswith("choreo_"):
        guesses = _guesses(low)
        # One in upper case is likely a constant of the user's own, and to Celery no setting either.
        wrong = bool(guesses) or not plain.isupper() or own
    elif name == _BARE:
        wrong, guesses = f"choreo_{_BARE}" not in known, [f"choreo_{_BARE}"]
    else:
        guesses = get_close_matches(low, SETTINGS, n=1, cutoff=0.9) if low[:1] in ("c", "h") else []
        wrong = bool(guesses)
    if wrong and not isinstance(source[name], (ModuleType, FunctionType, type)):
        raise _unknown(name, [_form(guess, prefix) for guess in guesses], "")


def _check_values(conf: ConfigurationView) -> None:
    namespace, store = conf.get("choreo_namespace"), conf.get("choreo_store_url")
    if namespace is not None and not is_namespace(namespace):
        raise DeclarationError(
            f"choreo_namespace = {namespace!r}: it begins the names of queues, so it takes a text without spaces, * "
            f'and #. Write it like "staging".'
        )
    if store is not None and not isinstance(store, str):
        raise DeclarationError(f'choreo_store_url = {store!r}: it takes a URL, like "redis://host:6379/0".')
    if (unheard := conf.get("choreo_unheard")) is not None:
        Unheard.of(unheard)
    if not isinstance(version := conf.get("choreo_version"), str | None):
        raise DeclarationError(f'choreo_version = {version!r}: it takes a text, like "1.4.2".')
    if (log_format := conf.get("choreo_log_format")) not in (None, *LOG_FORMATS):
        raise DeclarationError(f'choreo_log_format = {log_format!r}: it takes "text" or "json".')
    if (tracing := conf.get("choreo_tracing")) not in (None, True, False):
        raise DeclarationError(f"choreo_tracing = {tracing!r}: it takes True or False.")
    if (edits := conf.get("choreo_allow_edit")) not in (None, True, False):
        raise DeclarationError(f"choreo_allow_edit = {edits!r}: it takes True or False.")
    if (intake := conf.get("choreo_intake")) not in (None, True, False):
        raise DeclarationError(f"choreo_intake = {intake!r}: it takes True or False.")
    if not ((plain := conf.get("choreo_cloudevents_exchange")) is None or is_exchange(plain)):
        raise DeclarationError(
            f'choreo_cloudevents_exchange = {plain!r}: it takes the name of an exchange of its own, like "cloudevents".'
        )
    if (changes := conf.get("choreo_flower_changes")) not in (None, True, False):
        raise DeclarationError(f"choreo_flower_changes = {changes!r}: it takes True or False.")
    if (hops := conf.get("choreo_max_hops")) is not None and (type(hops) is not int or hops < 0):
        raise DeclarationError(f"choreo_max_hops = {hops!r}: it takes a whole number, such as 100, or 0 for no limit.")
    seconds = conf.get("choreo_shutdown_timeout")
    try:
        if seconds is None or is_wait(float(seconds)):
            return
    except (TypeError, ValueError):
        pass
    raise DeclarationError(f"choreo_shutdown_timeout = {seconds!r}: it takes a number of seconds, or None.")


def is_namespace(value: object) -> bool:
    """True if the value can begin the names of queues, with a dot behind it."""
    return isinstance(value, str) and re.fullmatch(r"[^\s*#]*", value) is not None


def is_exchange(value: object) -> bool:
    """True if the value can be the name of an exchange that choreo may declare on RabbitMQ."""
    if not isinstance(value, str) or re.fullmatch(r"[\w.:-]{1,255}", value, re.ASCII) is None:
        return False
    return not value.startswith("amq.") and not f".{value}".endswith((".choreo.events", ".choreo.control"))


def _guesses(name: str) -> list[str]:
    ends = [known.removeprefix("choreo_") for known in SETTINGS]
    return [f"choreo_{end}" for end in get_close_matches(name.removeprefix("choreo").strip("_"), ends, n=1)]


def _unknown(name: str, guesses: Sequence[str], where: str) -> DeclarationError:
    hint = f"did you mean {guesses[0]}?" if guesses else f"the settings of choreo are {', '.join(SETTINGS)}."
    written = f"{where}({name}=...)" if where else name
    return DeclarationError(f"{written}: choreo has no such setting, {hint}")


def _form(name: str, prefix: str) -> str:
    """The name with the prefix, as Celery looks for it: in upper case if the prefix is, else in lower case."""
    return str(match_case(f"{prefix}{name}", prefix)) if prefix else name
