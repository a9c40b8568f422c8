"""Redis as a broker that loses nothing: a kombu transport. Start reading in `transport.py`."""
