"""Celery's settings for every service of the suite, from the environment that the fleet gives to its processes."""

import json
import os

broker_url = os.environ["CHAOS_BROKER_URL"]
choreo_store_url = os.environ.get("CHAOS_STORE_URL") or None
choreo_namespace = os.environ["CHAOS_NAMESPACE"]
choreo_fast_lane = os.environ.get("CHAOS_FAST_LANE") != "off"
# Short patience: what takes a quarter of a minute in production takes seconds here.
broker_transport_options = json.loads(os.environ.get("CHAOS_TRANSPORT_OPTIONS", "{}"))
# Celery passes this on as it is; only the run against kombu's own transport sets it.
broker_transport = os.environ.get("CHAOS_TRANSPORT") or None
broker_heartbeat = 10
broker_connection_timeout = 3
worker_prefetch_multiplier = 4
worker_send_task_events = False
worker_hijack_root_logger = True
