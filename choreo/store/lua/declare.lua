-- Report that a worker lives and declares bindings; find the bindings that no live worker declares.
--
-- KEYS[1] workers    hash, permanent: worker -> ms until which it counts as alive, then its bindings, one per line
-- KEYS[2] bindings   set, permanent: every binding ("queue pattern") that may exist on the broker
-- KEYS[3] queues     set, permanent: every queue that was ever declared, and is not retired
-- KEYS[4] retirements   hash, permanent: the queue of a handler that is retired -> '0', the ms until which the queue is
--                    being deleted, or 'over'; then a space and a record
-- KEYS[5] applied    string, for a while: see apply.lua
-- ARGV[1] worker     ARGV[2] ms for which it counts as alive from now on; 0: it ends
-- ARGV[3] n          ARGV[4..n+3] its bindings     ARGV[n+4..] bindings that it has removed from the broker
-- Returns: {1 if the worker was known as alive else 0, stale bindings, removed bindings to make again,
--     queues that are retired and that it only works off, {queue, mark, ...} of those that were retired and that it has
--     called back, ms to wait}. To wait: nothing is reported, since one of its queues is just being deleted.
--
-- A worker that was not known as alive has started since: it calls its handlers back. One that was known works off the
-- queues of those that are retired, and nobody's declaration of them counts.
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
for binding in string.gmatch(redis.call('GET', KEYS[5]) or '', '\n([^\n]+)') do live[binding] = true end

local marks, drained, back, seen = {}, {}, {}, {}
local kept = redis.call('HGETALL', KEYS[4])
for i = 1, #kept, 2 do marks[kept[i]] = kept[i + 1] end

local function meet(queue)
  local mark = marks[queue]
  if seen[queue] or not mark then return end
  seen[queue] = true
  if known == 1 then
    drained[#drained + 1] = queue
  else
    back[#back + 1], back[#back + 2] = queue, mark
    marks[queue] = nil
  end
end

if ttl > 0 and known == 0 then
  for i = 4, count + 3 do
    local mark = marks[string.match(ARGV[i], '^[^ ]+')]
    local until_ms = mark and tonumber(string.match(mark, '^%d+')) or 0
    if until_ms > now then return {known, {}, {}, {}, {}, until_ms - now} end
  end
end

if ttl > 0 then
  local record = string.format('%.0f', now + ttl)
  for i = 4, count + 3 do
    local queue = string.match(ARGV[i], '^[^ ]+')
    record = record .. '\n' .. ARGV[i]
    meet(queue)
    if not marks[queue] then
      live[ARGV[i]] = true
      redis.call('SADD', KEYS[2], ARGV[i])
      redis.call('SADD', KEYS[3], queue)
    end
  end
  redis.call('HSET', KEYS[1], worker, record)
  for i = 1, #back, 2 do redis.call('HDEL', KEYS[4], back[i]) end
else
  redis.call('HDEL', KEYS[1], worker)
end
for binding in pairs(live) do
  if marks[string.match(binding, '^[^ ]+')] then live[binding] = nil end
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
return {known, stale, to_restore, drained, back, 0}
