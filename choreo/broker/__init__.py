"""How events travel: the transport for Redis, and the additions that give RabbitMQ the same guarantees."""
