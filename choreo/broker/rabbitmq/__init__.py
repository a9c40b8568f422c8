"""RabbitMQ as a broker: publisher confirms in batches, and quorum queues that stay."""
