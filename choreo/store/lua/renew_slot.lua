-- Prolong the lease of a slot.
--
-- KEYS[1] slots          ZSET, see take_slot.lua
-- ARGV[1] token          ARGV[2] lease in ms
-- Returns: 1 if prolonged, 0 if the slot is no longer taken
--!include redis_client/now

local now = now_ms()
local before = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
if before <= now then return 0 end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
