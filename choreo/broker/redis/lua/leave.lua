#!lua flags=allow-oom
-- A consumer acks for the last time and stops taking. From here on any consumer may give back what it still holds.
--
-- KEYS[1] consumers   sorted set, permanent: owner -> the ms at which it counts as dead; 0 = it is leaving
-- KEYS[2] in flight   hash, lives as long as it holds messages: tag -> queue key \0 token key \0 message
-- ARGV[1] owner       ARGV[2..] tags to ack
-- Returns: the number of messages still in flight; the owner is forgotten if there are none.
for i = 2, #ARGV, 500 do
  redis.call('HDEL', KEYS[2], unpack(ARGV, i, math.min(i + 499, #ARGV)))
end
local held = redis.call('HLEN', KEYS[2])
if held == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], 'XX', 0, ARGV[1])
end
return held
