-- Take a slot of a handler with a concurrency, or wait for one.
--
-- KEYS[1] slots          ZSET token -> time in ms at which its lease runs out; expires with the last lease
-- KEYS[2] waiting        ZSET worker -> time in ms since which it waits; expires
-- KEYS[3] asked          ZSET worker -> time in ms at which it last asked; expires
-- ARGV[1] token          ARGV[2] lease in ms   ARGV[3] most slots at a time   ARGV[4] worker
-- ARGV[5] ms after which a worker that no longer asks waits no more   ARGV[6] ms after which a waiting worker goes first
-- Returns: 1 if the slot is taken, 0 if the worker waits
--!include redis_client/now

local now = now_ms()
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 1 end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for _, gone in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[5])) do
  redis.call('ZREM', KEYS[2], gone)
  redis.call('ZREM', KEYS[3], gone)
end
local since = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[4]) or now)
local first = math.min(since, now - ARGV[6])
local before = redis.call('ZCOUNT', KEYS[2], '-inf', '(' .. string.format('%.0f', first))
if redis.call('ZCARD', KEYS[1]) + before < tonumber(ARGV[3]) then
  redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
  redis.call('ZREM', KEYS[2], ARGV[4])
  redis.call('ZREM', KEYS[3], ARGV[4])
  return 1
end
redis.call('ZADD', KEYS[2], 'NX', now, ARGV[4])
redis.call('ZADD', KEYS[3], now, ARGV[4])
redis.call('PEXPIRE', KEYS[2], 10 * ARGV[5])
redis.call('PEXPIRE', KEYS[3], 10 * ARGV[5])
return 0
