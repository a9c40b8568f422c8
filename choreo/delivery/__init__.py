"""The life of one delivery, without Celery: begin, run the handler, commit."""
