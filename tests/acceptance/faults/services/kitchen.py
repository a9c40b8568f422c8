"""A meal that explodes kills the process that cooks it."""

import os
import signal
from datetime import timedelta

from choreo import Context, Terms
from tests.acceptance.faults.services.making import did, made
from tests.acceptance.faults.services.words import MealOrdered

app = made("kitchen", terms=Terms(lease=timedelta(seconds=1.5), max_deliveries=2))


@app.on(MealOrdered)
def cook(meal: MealOrdered, context: Context) -> None:
    if meal.fault == "explodes":
        os.kill(os.getpid(), signal.SIGKILL)
    did("cooked", context)
