"""Which events a pattern matches: on the stage as on Redis and RabbitMQ."""

import pytest

from choreo.events.patterns import matches
from tests.topics import TOPICS


@pytest.mark.parametrize(("binding", "matching", "others"), TOPICS, ids=[row[0] for row in TOPICS])
def test_a_pattern_matches_as_in_amqp(binding: str, matching: list[str], others: list[str]):
    assert [key for key in matching if not matches(binding, key)] == []
    assert [key for key in others if matches(binding, key)] == []
