-- A handler was ended by a stop, and not by its own fault: that it was begun counts once less.
--
-- KEYS 1 unit           HASH, see lease.lua
-- Returns               how often the current attempt was begun

local deliveries = tonumber(redis.call('HGET', KEYS[1], 'deliveries') or 0)
return deliveries > 0 and redis.call('HINCRBY', KEYS[1], 'deliveries', -1) or 0
