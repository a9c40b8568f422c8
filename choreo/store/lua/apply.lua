-- Let bindings of a service count as declared for a while, although no worker declares them.
--
-- KEYS[1] applied    string, for the time: '1' if the broker has the bindings else '0', then the bindings, one per line
-- KEYS[2] bindings   KEYS[3] queues   KEYS[4] retirements   see declare.lua
-- ARGV[1] '1' if the broker has all of them   ARGV[2] ms for which they count   ARGV[3..] bindings ("queue pattern")
-- Returns: nothing.
local record = ARGV[1]
for i = 3, #ARGV do
  local queue = string.match(ARGV[i], '^[^ ]+')
  record = record .. '\n' .. ARGV[i]
  redis.call('SADD', KEYS[2], ARGV[i])
  redis.call('SADD', KEYS[3], queue)
  redis.call('HDEL', KEYS[4], queue)
end
redis.call('SET', KEYS[1], record, 'PX', ARGV[2])
