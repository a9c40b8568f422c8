"""One delivery, without Celery: begin, run the handler, commit. And the clock, the lease keeper and the notices."""
