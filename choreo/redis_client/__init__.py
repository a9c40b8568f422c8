"""The ground under store and broker: connections to Redis, and one loader for Lua scripts."""
