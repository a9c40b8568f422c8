"""All rules, and those of the check itself."""

from choreo.check import coroutines, data, declarations, failures, hearing, joins, names, order, spread
from choreo.check.rule import Rule, nothing
from choreo.findings import ERROR

REFUSED = Rule(
    "CH001",
    "a declaration is refused at import",
    "The module cannot be imported, so its worker does not start.",
    "correct the declaration: the text says which value, and how to write it",
    nothing,
    ERROR,
)
UNREASONED = Rule(
    "CH002",
    "an allowance gives no reason",
    "In a year nobody knows whether it still holds.",
    "write it: # choreo: allow CH203 because ...",
    nothing,
    ERROR,
)
IDLE = Rule(
    "CH003",
    "an allowance allows nothing",
    "What it was for is mended, or it names the wrong line or code; it would hide the next fault.",
    "remove it",
    nothing,
)
UNKNOWN = Rule(
    "CH004",
    "an allowance names a rule that does not exist",
    "It allows nothing.",
    "correct the code: `choreo check --list` shows all",
    nothing,
    ERROR,
)

#: Every rule, by its code.
RULES: dict[str, Rule] = {
    rule.code: rule
    for rule in (
        *(REFUSED, UNREASONED, IDLE, UNKNOWN),
        *(
            rule
            for family in (names, hearing, joins, spread, order, failures, data, declarations, coroutines)
            for rule in family.RULES
        ),
    )
}
