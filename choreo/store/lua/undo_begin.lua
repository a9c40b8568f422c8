-- Take the beginning of a claim back: its handler was not called. The unit is free, and counts one beginning less.
--
-- KEYS[1] unit           HASH, see claim_unit.lua
-- ARGV[1] token
-- Returns: 1 if the unit is free now, 0 if another worker has the claim, or it was never begun

local state = redis.call('HMGET', KEYS[1], 'token', 'deliveries')
if state[1] ~= ARGV[1] or not state[2] then return 0 end
redis.call('HDEL', KEYS[1], 'token', 'until', 'inflight')
redis.call('HINCRBY', KEYS[1], 'deliveries', -1)
return 1
