"""RabbitMQ as a broker: publisher confirms in batches, and queues that survive other settings and an early kill."""
