"""Derives an event type from a class name, and tells a fact from a command.

``OrderConfirmedByRestaurant`` travels as ``order.confirmed_by_restaurant``. The first word names the thing that the
event happened to; the other words say what happened. A name is refused as a command if none of its other words is a
past participle, or if its first word can only be a command ("send").
"""

import re

from choreo.errors import DeclarationError, EventNameError

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")
_TYPE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
_PATTERN = re.compile(r"([a-z][a-z0-9_]*|\*|#)(\.([a-z][a-z0-9_]*|\*|#))*")

#: The types of the events that choreo itself announces. It is no fault if no handler listens to them.
OWN_TYPES = frozenset({"story.overdue"})

#: Irregular verbs that event names use: command → fact.
_IRREGULAR = {
    "become": "became", "begin": "begun", "bind": "bound", "break": "broken", "bring": "brought", "build": "built",
    "buy": "bought", "catch": "caught", "choose": "chosen", "come": "came", "cut": "cut", "do": "done",
    "draw": "drawn", "drive": "driven", "fall": "fallen", "feed": "fed", "find": "found", "forget": "forgotten",
    "freeze": "frozen", "get": "got", "give": "given", "go": "gone", "grow": "grown", "hide": "hidden", "hit": "hit",
    "hold": "held", "keep": "kept", "know": "known", "leave": "left", "lend": "lent", "lose": "lost", "make": "made",
    "meet": "met", "overcome": "overcame", "pay": "paid", "put": "put", "read": "read", "rise": "risen", "run": "run",
    "see": "seen", "sell": "sold", "send": "sent", "set": "set", "shut": "shut", "sign": "signed", "speak": "spoken",
    "spend": "spent", "split": "split", "steal": "stolen", "take": "taken", "tell": "told", "throw": "thrown",
    "undo": "undone", "win": "won", "withdraw": "withdrawn", "write": "written",
}  # fmt: skip
_PARTICIPLES = frozenset(_IRREGULAR.values()) | frozenset(
    "arisen awoken beaten bent bet bitten blown bred broadcast burnt burst cast clung crept dealt done drawn dreamt "
    "drunk dug eaten fled flown forbidden foregone foreseen forgiven fought gotten ground heard hung hurt input knelt "
    "laid lain lain leapt learnt led lent let lit meant mistaken misread offset outbid outdone overdrawn overridden "
    "overrun overtaken overthrown paid quit rebuilt redone remade repaid resent reset resold rewritten ridden rung "
    "sat sawn seen sewn shaken shone shot shown shrunk slept slid slung sold sought spelt spent spilt spoilt sprung "
    "spun stood struck stuck stung sung sunk swept swollen sworn swum swung taught thought thrust torn typeset unpaid "
    "unsent unset understood undertaken upheld upset withheld withstood woken worn wound woven".split()
)
#: Words in -ed that are not past participles.
_NO_PARTICIPLES = frozenset(
    "bed bleed breed creed deed embed exceed feed greed heed need proceed red reed seed shed sled speed steed "
    "succeed wed weed".split()
)
#: Words that can only be a command, never the thing that an event happened to.
_ORDERS = frozenset(
    "send create assign notify confirm reject delete remove add validate calculate generate execute "
    "register deliver allocate reserve authorize approve decline".split()
)
#: Words that are a command at the beginning of a name. Some of them are nouns elsewhere.
_VERBS = _ORDERS | frozenset(
    "accept activate award book cancel charge check close complete deactivate dispatch expire finish handle "
    "issue mark open order pack place prepare print process publish receive record refund release request "
    "return save schedule ship start stop submit track transfer update".split()
) | frozenset(_IRREGULAR)  # fmt: skip
#: Words that are never a noun of a command: "ShipOrderNow", "SendEmailToCustomer".
_NO_NOUNS = frozenset(
    "again all and are as asap at be by can for from has have if immediately in is it later must next not now of off "
    "on or out please quickly ready soon that the then this to today tomorrow up when with".split()
)
#: Verbs that double their last letter: "shipped".
_DOUBLED = frozenset("ship stop drop plan submit refer transfer pack_up swap tag tip trim".split())


def words_of(class_name: str) -> list[str]:
    """Return the words of a class name: ``OrderPlaced`` → ``["order", "placed"]``."""
    return [word.lower() for word in _WORD.findall(class_name)]


def type_of(class_name: str) -> str:
    """
    Return the event type of a class name: ``OrderConfirmedByRestaurant`` → ``order.confirmed_by_restaurant``.

    Raises `DeclarationError` when the name is a single word.
    """
    first, *rest = words_of(class_name) or [""]
    if not rest:
        raise DeclarationError(
            f"{class_name} does not say what it happened to. Name it like OrderPlaced, "
            f'or give its type: class {class_name}(Event, type="order.placed").'
        )
    return f"{first}.{'_'.join(rest)}"


def is_type(text: str) -> bool:
    """True if this can be an event type: lower-case words with dots between them."""
    return _TYPE.fullmatch(text) is not None


def check_type(event_type: str) -> None:
    """Raise `DeclarationError` unless this is an event type that the broker can route."""
    if not isinstance(event_type, str) or not is_type(event_type):
        raise DeclarationError(
            f'{event_type!r} is not an event type. Write lower-case words with dots between them, like "order.placed".'
        )


def check_pattern(pattern: str) -> None:
    """Raise `DeclarationError` unless this is an event type, or a pattern with ``*`` (one word) or ``#`` (any)."""
    if not _PATTERN.fullmatch(pattern):
        raise DeclarationError(
            f'{pattern!r} is not an event type or pattern. Write "order.placed", "order.*" (one word) or "order.#".'
        )


def check_fact(class_name: str, words: list[str]) -> None:
    """Raise `EventNameError` when the words are a command, not a fact."""
    if words[0] not in _ORDERS and any(_is_past(word) for word in words[1:]):
        return
    raise EventNameError(class_name, _fact(words))


def _is_past(word: str) -> bool:
    return word in _PARTICIPLES or (word.endswith("ed") and word not in _NO_PARTICIPLES)


def _fact(words: list[str]) -> str | None:
    """Return the name of the fact that belongs to a command; None if it cannot be derived."""
    first, *rest = words
    if not rest or _NO_NOUNS & set(rest):
        return None
    # "CancelOrder" is a command. "OrderPlace" is not: "order" is its noun, and "place" lacks a letter.
    if first in _VERBS and first != "order":
        noun = [word for word in rest if not _is_past(word)] or rest
        return _camel([*noun, _participle(first)])
    return _camel([*words[:-1], _participle(rest[-1])]) if rest[-1] in _VERBS else None


def _camel(words: list[str]) -> str:
    return "".join(word.title() for word in words)


def _participle(verb: str) -> str:
    if verb in _IRREGULAR:
        return _IRREGULAR[verb]
    if verb in _DOUBLED:
        return f"{verb}{verb[-1]}ed"
    if verb.endswith("e"):
        return f"{verb}d"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return f"{verb[:-1]}ied"
    return f"{verb}ed"
