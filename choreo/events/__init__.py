"""Events: typed facts, the envelope in which they travel, and the message that carries it."""
