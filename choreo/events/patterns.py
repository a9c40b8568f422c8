"""Routing patterns: the types of events that a binding such as "order.*" matches."""

#: A queue, and a pattern that leads to it.
Binding = tuple[str, str]


def matches(pattern: str, event_type: str) -> bool:
    """
    True if a binding with this pattern gets events of this type. The meaning is AMQP's: ``*`` is one word, ``#`` is
    any number of words, or none.

        >>> matches("order.*", "order.placed"), matches("order.*", "order.placed.again"), matches("#", "order.placed")
        (True, False, True)
    """
    words = event_type.split(".") if event_type else []
    reached = {0}
    for part in pattern.split("."):
        if part == "#":
            reached = set(range(min(reached), len(words) + 1))
        else:
            reached = {place + 1 for place in reached if place < len(words) and part in ("*", words[place])}
        if not reached:
            return False
    return len(words) in reached
