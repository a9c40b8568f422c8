"""How the services of these tests are made: the environment says where they run, and which version they are."""

import os
from typing import Any

from choreo import Service

NAMESPACE, VERSION = "CHOREO_TEST_NAMESPACE", "CHOREO_TEST_VERSION"


def made(name: str, **options: Any) -> Service:
    """A service on the broker that the environment names."""
    service = Service(name, config=None, broker=os.environ.get("CHOREO_BROKER_URL", "memory://"), **options)
    service.conf.choreo_store_url = os.environ.get("CHOREO_STORE_URL", "memory:")
    service.conf.choreo_namespace = os.environ.get(NAMESPACE, "")
    service.conf.choreo_version = os.environ.get(VERSION, "1.4.1")
    return service
