"""What a platform looks like now: read from the store and the broker, changing nothing."""
