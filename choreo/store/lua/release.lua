-- Give up a claim that was made ahead, and whose handler has not begun.
--
-- KEYS[1] unit           HASH, see claim_unit.lua
-- ARGV[1] token
-- Returns: 1 if the unit is free now, 0 if it was begun, or another worker has the claim

local state = redis.call('HMGET', KEYS[1], 'token', 'deliveries')
if state[1] ~= ARGV[1] or state[2] then return 0 end
redis.call('HDEL', KEYS[1], 'token', 'until', 'inflight')
return 1
