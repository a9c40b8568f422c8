"""
Tells from the words of a name whether it states a fact or gives an order.

This is a judgement of English with a small grammar and a dictionary of verbs (`choreo.events.lexicon`), so it errs now
and then: tests/unit/test_event_names.py measures how often, with names of public catalogues.
"""

from collections.abc import Iterator, Sequence

from choreo.events.lexicon import (
    AUXILIARIES,
    CONDITIONS,
    DETERMINERS,
    DOUBLED,
    IRREGULAR,
    NO_NOUNS,
    NO_PARTICIPLES,
    NO_STATES,
    NOUNS_FIRST,
    NOUNS_TOO,
    ORDERS,
    OTHER_PARTICIPLES,
    PARTICLES,
    PHRASES,
    PREFIXES,
    RELATIONS,
    STATES,
    TAILS,
)

_PASTS = (frozenset(form for forms in IRREGULAR.values() for form in forms) - IRREGULAR.keys()) | OTHER_PARTICIPLES
#: Participles that are the command as well: "the alarm was set" and "set the alarm".
_UNCHANGED = frozenset(verb for verb, forms in IRREGULAR.items() if verb in forms or verb in ("run", "come"))
_VERBS = ORDERS | NOUNS_TOO | IRREGULAR.keys()


def is_fact(words: Sequence[str]) -> bool:
    """
    True if these words, in lower case, tell what has happened to the first of them, or what it is.

    "item back in stock" does, "ship order" does not.
    """
    first = words[0]
    is_question = (first in AUXILIARIES and first != "will") or not CONDITIONS.isdisjoint(words[1:2])
    if first in ORDERS or is_question:
        return False
    is_noun = first not in _VERBS or first in NOUNS_FIRST
    return any(_tells(words, place, is_noun) for place in range(1, len(words)))


def _tells(words: Sequence[str], place: int, is_noun: bool) -> bool:
    """True if the word at this place says what happened. ``is_noun``: the first word can only be a thing."""
    word = words[place]
    if is_past(word):
        return is_noun or not _describes_an_object(words, place)
    if word in AUXILIARIES or word in RELATIONS:
        return is_noun or (place == 1 and word in AUXILIARIES)
    if _is_phrase(words, place):
        return is_noun or place == 1
    ends = place == len(words) - 1 or words[place + 1] in TAILS or _is_number(words[place + 1])
    if word in STATES or _is_quality(word):
        return ends
    return is_noun and ends and (_is_unchanged(words, place) or _is_going_on(word) or _is_particle(words, place))


def is_past(word: str) -> bool:
    """True for a past tense or a past participle that is not the command as well."""
    known = word in _PASTS or any(word.startswith(prefix) and word[len(prefix) :] in _PASTS for prefix in PREFIXES)
    return known or (word.endswith("ed") and word not in NO_PARTICIPLES and len(word) > 3)


def _describes_an_object(words: Sequence[str], place: int) -> bool:
    """True for "failed" in "retry failed payment", where the first word may be a verb and "payment" is its object."""
    between, after = words[1:place], words[place + 1 : place + 2]
    is_near = all(word in DETERMINERS for word in between)
    return is_near and any(word not in TAILS and not word.endswith("ly") and not _is_number(word) for word in after)


def _is_phrase(words: Sequence[str], place: int) -> bool:
    return any(word in PHRASES.get(words[place], ()) for word in words[place + 1 : place + 2])


def _is_quality(word: str) -> bool:
    return word.endswith(("able", "ible")) and word not in NO_STATES


def _is_unchanged(words: Sequence[str], place: int) -> bool:
    # "UserLogIn" has no participle, and neither has "ResetSet".
    return words[place] in _UNCHANGED and words[place - 1] not in ORDERS


def _is_going_on(word: str) -> bool:
    return word.endswith("ing") and len(word) > 5 and word not in NO_STATES


def _is_particle(words: Sequence[str], place: int) -> bool:
    return place == 1 and words[place] in PARTICLES


def _is_number(word: str) -> bool:
    return word.lstrip("v").isdigit()


def fact_of(words: Sequence[str]) -> list[str] | None:
    """Return the words of the fact that belongs to a command: "order placed" for "place order". None: no telling."""
    first, *rest = words
    if not rest or NO_NOUNS & set(rest):
        return None
    return next((fact for fact in _candidates(first, rest) if is_fact(fact)), None)


def _candidates(first: str, rest: Sequence[str]) -> Iterator[list[str]]:
    # "CancelOrder" is a command. "OrderPlace" is not: "order" is its noun, and "place" lacks a letter.
    if first in _VERBS and first not in NOUNS_FIRST:
        yield [*([word for word in rest if not is_past(word)] or rest), participle(first)]
    if rest[-1] in _VERBS:
        yield [first, *rest[:-1], participle(rest[-1])]
    # "FailedPayment" is a thing.
    if is_past(first):
        yield [*rest, first]


def participle(verb: str) -> str:
    """The past participle of a verb: "shipped", "sent"."""
    if verb in IRREGULAR:
        return IRREGULAR[verb][-1] if verb != "run" else "run"
    if verb in DOUBLED:
        return f"{verb}{verb[-1]}ed"
    if verb.endswith("e"):
        return f"{verb}d"
    if verb.endswith("y") and verb[-2:-1] not in "aeiou":
        return f"{verb[:-1]}ied"
    return f"{verb}ed"
