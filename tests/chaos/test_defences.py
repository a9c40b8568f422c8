"""The suite can fail: with each defence switched off, the scenario that needs it turns red."""

from collections.abc import Iterator

import pytest

from choreo.local import EmbeddedServer
from tests.chaos.conftest import LONG, MakeFleet
from tests.chaos.defences import DEFENCES, Defence
from tests.chaos.storm import LedgerError


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, ...]]]:
    """What each scenario saw; printed at the end (`pytest -s`)."""
    rows: list[tuple[str, ...]] = [("switched off", "instead", "broker", "turns red", "it saw")]
    yield rows
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, tuple("-" * width for width in widths))
    lines = (" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    print("\n\n" + "\n".join(f"| {line} |" for line in lines))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("defence", [defence for defence in DEFENCES if defence.short or LONG], ids=str)
def test_a_scenario_turns_red_without(
    defence: Defence, make_fleet: MakeFleet, server: EmbeddedServer, seed: int, table: list[tuple[str, ...]]
) -> None:
    fleet = make_fleet(defence.broker, dict(defence.environment), patience=10)
    options = {"orders": 150, **defence.options}

    with pytest.raises(LedgerError) as caught:
        defence.scenario(fleet, seed=seed, store_url=server.url, **options)

    found = caught.value
    print(found)
    table.append((defence.name, defence.instead, defence.broker, defence.scenario.__name__, found.summary))
    assert set(found.kinds) & set(defence.sees), found
