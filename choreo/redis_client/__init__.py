"""Redis for the store and the broker: connections, and the loader of all Lua scripts."""
