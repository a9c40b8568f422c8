"""The parts that run inside `celery worker`: its tasks, its consumer, its steps and its remote control."""
