-- Record how the process ended that ran the current attempt of a unit. See claim_unit.lua for `ended`.
--
-- KEYS[1] unit           HASH, see claim_unit.lua
-- ARGV[1] text
-- Returns: 1 if recorded, 0 if the unit is finished or was never begun

if redis.call('HEXISTS', KEYS[1], 'token') == 0 then return 0 end
redis.call('HSET', KEYS[1], 'ended', (redis.call('HGET', KEYS[1], 'deliveries') or 1) .. ' ' .. ARGV[1])
return 1
