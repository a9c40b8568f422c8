"""Figures in the columns of a table: short, and never wrong by more than a rounding."""

import pytest

from choreo.observe.figures import count, rate, size, span


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "-"),
        (0, "0ms"),
        (3.012, "3.0s"),
        (119, "119s"),
        (1440, "24min"),
        (float("inf"), "grows"),
    ],
)
def test_a_time(seconds, shown):
    assert span(seconds) == shown


@pytest.mark.parametrize(("number", "shown"), [(None, "-"), (9999, "9999"), (12_345, "12k"), (3_400_000, "3.4M")])
def test_a_number(number, shown):
    assert count(number) == shown


@pytest.mark.parametrize(("number", "shown"), [(None, "-"), (0.31, "0.3"), (99.96, "100"), (1234.0, "1.2k")])
def test_a_rate(number, shown):
    assert rate(number) == shown


@pytest.mark.parametrize(
    ("number", "shown"), [(512, "512 B"), (4_404_019, "4.2 MB"), (8 * 1024**3, "8 GB"), (4_509_715_660, "4.2 GB")]
)
def test_a_size(number, shown):
    assert size(number) == shown
