"""Redis as a broker that loses no message: a kombu transport. Start reading in `transport.py`."""
