-- A handler was ended by a stop, and not by its own fault: that it was begun counts once less.
--
-- KEYS 1 unit           HASH, see lease.lua
--      2 in flight      where its copy is, '' if it is not in this server: see lease.lua
-- ARGV 1 token
-- Returns               how often the current attempt was begun

redis.call('SREM', begun_key(KEYS[2]), ARGV[1])
local deliveries = tonumber(redis.call('HGET', KEYS[1], 'deliveries') or 0)
return deliveries > 0 and redis.call('HINCRBY', KEYS[1], 'deliveries', -1) or 0
