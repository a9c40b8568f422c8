"""What other namespaces on the store's server know of an event."""

from choreo.errors import StoreError
from choreo.observe.elsewhere import heard_elsewhere


class Told:
    """The store of a namespace: who is alive, and what each worker hears."""

    def __init__(self, *patterns: str, workers: int = 1) -> None:
        self._declared = {f"worker-{number}": [("a.queue", one) for one in patterns] for number in range(workers)}

    def services(self) -> list[str]:
        return ["a"]

    def declared(self, _: str) -> dict[str, list[tuple[str, str]]]:
        return self._declared


class Closed(Told):
    def services(self) -> list[str]:
        raise StoreError("no rights")


STORES = {
    "": Told("order.placed"),
    "by-pattern": Told("parcel.lost", "order.*"),
    "closed": Closed("order.placed"),
    "deaf": Told("order.cancelled"),
    "stopped": Told("order.placed", workers=0),
    "own": Told("order.placed"),
}


class Own(Told):
    def namespaces(self) -> list[str]:
        return sorted(STORES)


def test_the_other_namespaces_are_named_in_which_a_live_worker_hears_the_type():
    assert heard_elsewhere(Own(), "own", STORES.__getitem__, "order.placed") == ["", "by-pattern"]
