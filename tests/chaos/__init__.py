"""Real workers, real brokers, and everything that can go wrong with them: no event may be lost."""
