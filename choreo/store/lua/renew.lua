-- Prolong the lease of a claim.
--
-- KEYS 1 unit           HASH, see lease.lua
-- ARGV 1 token          2 lease in ms   3 retention in ms
-- Returns               1 if prolonged, 0 if another worker has the claim or the unit is settled

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'until', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
