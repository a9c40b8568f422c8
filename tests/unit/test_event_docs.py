"""The code of docs/events.md is run as printed."""

from tests.unit.test_docs import ROOT, blocks, names_of


def test_the_examples_of_event_classes_run(capsys):
    names = names_of(*blocks((ROOT / "docs" / "events.md").read_text()))

    assert capsys.readouterr().out.startswith(
        "OrderPlacedTwice travels as order.placed_twice, so the handlers of its base"
    )
    handlers = {handler.name: handler.reads for handler in names["app"].describe().handlers}
    assert handlers["shop.charge"] == {"order.placed": ("total_cents",)}
    assert set(handlers) == {"shop.hear", "shop.count", "shop.charge"}
