"""Celery's settings for every service in this checkout. Each `choreo.Service` reads this module."""

import os

# One broker carries the events of all services. Compose, Kubernetes and `choreo up` set this variable.
broker_url = os.environ.get("CHOREO_BROKER_URL", "redis://localhost:6379/0")

# The Redis that keeps joins, retries and dead letters. None: the broker, if that is a Redis. RabbitMQ needs a URL here.
choreo_store_url = os.environ.get("CHOREO_STORE_URL")

# Platforms that share a broker ("staging" and "test") need a namespace each. Otherwise they get each other's events.
choreo_namespace = os.environ.get("CHOREO_NAMESPACE", "")

# With CHOREO_INTAKE=1 the workers take over what programs in other languages push to `choreo.intake`.
choreo_intake = os.environ.get("CHOREO_INTAKE") == "1"
