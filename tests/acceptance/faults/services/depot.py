"""Takes the money for parcels. Its worker is stopped before the tests begin."""

from choreo import Context
from tests.acceptance.faults.services.making import did, made
from tests.acceptance.faults.services.words import ParcelPaid, ParcelPlaced

app = made("depot")


@app.on(ParcelPlaced)
def take_money(parcel: ParcelPlaced, context: Context) -> ParcelPaid:
    did("paid", context)
    return ParcelPaid()
