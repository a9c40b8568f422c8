#!lua flags=allow-oom
-- Ack messages, without taking any.
--
-- KEYS[1] in flight   hash, exists while it holds messages: tag -> queue key \0 wake-up mark's key \0 message
-- ARGV[1..] tags      a tag that is not in flight, or no longer, changes nothing
-- Returns: the number of messages acked.
local acked = 0
for i = 1, #ARGV, 500 do
  acked = acked + redis.call('HDEL', KEYS[1], unpack(ARGV, i, math.min(i + 499, #ARGV)))
end
return acked
