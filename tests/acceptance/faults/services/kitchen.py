"""A meal kills the process that cooks it."""

import os
import signal
from datetime import timedelta

from choreo import Terms
from tests.acceptance.faults.services.making import made
from tests.acceptance.faults.services.words import MealOrdered

app = made("kitchen", terms=Terms(lease=timedelta(seconds=1.5), max_deliveries=2))


@app.on(MealOrdered)
def cook(meal: MealOrdered) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
