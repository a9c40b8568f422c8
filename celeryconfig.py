"""Celery's settings for every service in this checkout. A `choreo.Service` reads this module by itself."""

import os

# One broker carries the events of all services. Compose, Kubernetes and `choreo up` say where it is.
broker_url = os.environ.get("CHOREO_BROKER_URL", "redis://localhost:6379/0")

# Joins, retries and dead letters are kept in Redis. Where the broker is a Redis, None keeps them beside it;
# with RabbitMQ, this has to name one.
choreo_store_url = os.environ.get("CHOREO_STORE_URL")

# Platforms that share a broker ("staging" beside "test") need a namespace each, or they hear each other's events.
choreo_namespace = os.environ.get("CHOREO_NAMESPACE", "")
