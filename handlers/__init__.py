"""The reference platform: a food delivery in seven services, none of which knows another."""
