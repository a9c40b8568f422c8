"""Each sabotage finds what it switches off. What it does to a flow of orders, `test_defences.py` shows."""

import multiprocessing

import pytest

from tests.chaos.services.sabotage import SABOTAGES


@pytest.mark.parametrize("name", SABOTAGES)
def test_what_a_sabotage_replaces_is_there(name: str) -> None:
    # In a process of its own: nothing puts the defence back.
    process = multiprocessing.get_context("fork").Process(target=SABOTAGES[name])
    process.start()
    process.join(120)

    assert process.exitcode == 0
