"""Trusts signed events only. No other service has its key."""

from choreo import Context
from tests.acceptance.faults.services.making import did, made
from tests.acceptance.faults.services.words import AlarmSilenced

app = made("vault")
app.conf.choreo_signing_keys = {"2026-11": "the key of the vault"}


@app.on(AlarmSilenced)
def note_silence(silenced: AlarmSilenced, context: Context) -> None:
    did("noted", context)
