"""How events travel: the Redis transport, and what RabbitMQ needs to promise the same."""
