"""What runs inside `celery worker`."""
