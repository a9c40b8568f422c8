"""Takes the money for parcels. Its worker is stopped before the tests begin."""

from tests.acceptance.faults.services.making import made
from tests.acceptance.faults.services.words import ParcelPaid, ParcelPlaced

app = made("depot")


@app.on(ParcelPlaced)
def take_money(parcel: ParcelPlaced) -> ParcelPaid:
    return ParcelPaid()
