"""How the services of these tests are made: wired by the environment, and writing down what they do."""

import json
import os
import time
from typing import Any

from celery import current_task

from choreo import Service

#: Where every service writes one line per call.
JOURNAL = "CHOREO_TEST_JOURNAL"
#: Keeps one test run apart from others on the same broker.
NAMESPACE = "CHOREO_TEST_NAMESPACE"
#: "off" turns the fast lane off.
FAST_LANE = "CHOREO_TEST_FAST_LANE"


def made(name: str, **options: Any) -> Service:
    """A service on the broker that the environment names."""
    service = Service(name, config=None, broker=os.environ.get("CHOREO_BROKER_URL", "memory://"), **options)
    service.conf.choreo_store_url = os.environ.get("CHOREO_STORE_URL", "memory:")
    service.conf.choreo_namespace = os.environ.get(NAMESPACE, "")
    service.conf.choreo_fast_lane = os.environ.get(FAST_LANE) != "off"
    return service


def note(what: str, subject: str, **more: Any) -> None:
    """Write down that something was done about a subject. One write is one line, whoever else writes."""
    request = current_task.request if current_task else None
    line = {
        "what": what,
        "subject": subject,
        "task": current_task.name if current_task else None,
        "queue": request.delivery_info.get("routing_key") if request else None,
        "id": request.id if request else None,
        "pid": os.getpid(),
        "at": time.time(),
        **more,
    }
    journal = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(journal, (json.dumps(line) + "\n").encode())
    finally:
        os.close(journal)


def noted(what: str, subject: str) -> int:
    """How often this was done, by whichever process."""
    about = json.dumps(subject)
    with open(os.environ[JOURNAL]) as journal:  # noqa: PTH123 - the shortest way
        # The last may be half written. Those about others are not read: there are thousands, and this is called often.
        lines = [json.loads(line) for line in journal if about in line and line.endswith("\n")]
    return sum(line["what"] == what and line["subject"] == subject for line in lines)
