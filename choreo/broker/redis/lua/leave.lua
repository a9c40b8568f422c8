#!lua flags=allow-oom
-- Send a consumer's last acks, and mark its owner as leaving. From here on any consumer may return its messages.
--
-- KEYS[1] consumers   sorted set, permanent: owner -> the time in ms at which it counts as dead; 0 = it is leaving
-- KEYS[2] in flight   hash, exists while it holds messages: tag -> queue key \0 wake-up mark's key \0 message
-- ARGV[1] owner       ARGV[2..] tags to ack
-- Returns: the number of messages still in flight. If there are none, the owner is removed.
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
