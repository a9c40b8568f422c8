-- Prolong the lease of a claim.
--
-- KEYS[1] unit           HASH, see claim_unit.lua
-- ARGV[1] token          ARGV[2] lease in ms   ARGV[3] retention in ms
-- Returns: 1 if prolonged, 0 if another worker has the claim or the unit is settled
--!include redis_client/now

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'until', now_ms() + ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
