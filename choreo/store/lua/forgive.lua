-- Count one beginning less: a stop of the worker ended the handler, which is not the handler's fault.
--
-- KEYS[1] unit           HASH, see claim_unit.lua
-- Returns: how often the current attempt has begun, without the one that is forgiven

local deliveries = tonumber(redis.call('HGET', KEYS[1], 'deliveries') or 0)
return deliveries > 0 and redis.call('HINCRBY', KEYS[1], 'deliveries', -1) or 0
