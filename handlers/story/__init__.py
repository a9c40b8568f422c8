"""The story of `make demo`. It listens to the events like any other program; the services do not know it."""
