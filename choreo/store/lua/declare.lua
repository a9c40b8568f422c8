-- Report that a worker lives and declares bindings; find the bindings that no live worker declares.
--
-- KEYS[1] workers    hash, permanent: worker -> ms until which it counts as alive, then its bindings, one per line
-- KEYS[2] bindings   set, permanent: every binding ("queue pattern") that may exist on the broker
-- KEYS[3] queues     set, permanent: every queue that was ever declared
-- ARGV[1] worker     ARGV[2] ms for which it counts as alive from now on; 0: it ends
-- ARGV[3] n          ARGV[4..n+3] its bindings     ARGV[n+4..] bindings that it has removed from the broker
-- Returns: {1 if the worker was known as alive else 0, stale bindings, removed bindings to make again}.
--!include redis_client/now
local now = now_ms()
local worker, ttl, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local known = 0
local workers = redis.call('HGETALL', KEYS[1])
local live = {}

for i = 1, #workers, 2 do
  local until_ms = tonumber(string.match(workers[i + 1], '^%d+'))
  if until_ms <= now then
    redis.call('HDEL', KEYS[1], workers[i])
  elseif workers[i] == worker then
    known = 1
  else
    for binding in string.gmatch(workers[i + 1], '\n([^\n]+)') do live[binding] = true end
  end
end

if ttl > 0 then
  local record = string.format('%.0f', now + ttl)
  for i = 4, count + 3 do
    record = record .. '\n' .. ARGV[i]
    live[ARGV[i]] = true
    redis.call('SADD', KEYS[2], ARGV[i])
    redis.call('SADD', KEYS[3], (string.match(ARGV[i], '^[^ ]+')))
  end
  redis.call('HSET', KEYS[1], worker, record)
else
  redis.call('HDEL', KEYS[1], worker)
end

local stale, to_restore = {}, {}
for i = count + 4, #ARGV do
  if live[ARGV[i]] then
    to_restore[#to_restore + 1] = ARGV[i]
  else
    redis.call('SREM', KEYS[2], ARGV[i])
  end
end
for _, binding in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  if not live[binding] then stale[#stale + 1] = binding end
end
return {known, stale, to_restore}
