"""The promises of every store: who uses it is known."""


def test_handlers_are_remembered_sorted_and_once(store):
    assert store.handlers() == []

    store.register(["payment.charge", "driver.assign"])
    store.register(["driver.assign"])
    store.register([])

    assert store.handlers() == ["driver.assign", "payment.charge"]


def test_a_store_that_is_there_says_so(store):
    store.ping()
