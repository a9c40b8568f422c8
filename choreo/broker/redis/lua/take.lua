#!lua flags=allow-oom
-- Move messages from queues to in flight, claim what they are about, and ack earlier ones, in one step.
--
-- KEYS[1] consumers     sorted set, permanent: owner -> the ms at which it counts as dead; 0 = it is leaving
-- KEYS[2] in flight     hash, lives as long as it holds messages: tag -> queue key \0 token key \0 message
-- KEYS[3..2+n]          tokens of the n queues: lists, an hour: see wake.lua
-- KEYS[3+n..]           lists of the n queues for the first priority, then for the second, and so on
-- ARGV[1] owner; '' when every queue is consumed without acks
-- ARGV[2] how many messages at most       ARGV[3] how many of them from one queue before the others had a turn
-- ARGV[4] sequence number before the first new tag
-- ARGV[5] n     ARGV[6] a '1' for each queue consumed without acks, '0' for the others
-- ARGV[7..6+n] for each queue the retention of its handler's inbox in ms, a space, and the start of the names of the
--                       handler's keys: see claim.lua; '' if this server does not know what the handler has done
-- ARGV[7+n..] tags to ack
-- Returns: {-1} if the owner is not registered (any more): nothing was taken;
--          otherwise {1 if messages are left else 0, queue number, tag, message, claim, queue number, ...}, with the
--          claim as claim.lua answers it. Copies of what is done are not among them: they are gone, and counted.
--          A queue in whose place there is another kind of key is {.. -queue number, '', list's key, ''} there.
--
-- A claim holds as long as its record in flight, hence as long as the owner lives. Taking is a sign of life: nobody
-- else can take the owner for dead before its timeout has passed, and for as long the claim needs no second look.
-- Records are written before the queue is trimmed: should a write be refused, the message still is in its queue.
-- It may run when memory is full, because taking and acking is how memory gets free again.
--!include broker/redis/wake
--!include redis_client/inbox
--!include broker/redis/claim
local owner, left, turn = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local sequence, n, noack = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
for i = 7 + n, #ARGV, 500 do
  redis.call('HDEL', KEYS[2], unpack(ARGV, i, math.min(i + 499, #ARGV)))
end
local ms, inboxes = nil, {}
if owner ~= '' then
  local deadline = redis.call('ZSCORE', KEYS[1], owner)
  if not deadline or tonumber(deadline) == 0 then return {-1} end
  local now = redis.call('TIME')
  ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
  local timeout = tonumber(string.match(owner, '%-(%d+)$'))
  if timeout then redis.call('ZADD', KEYS[1], 'XX', 'GT', string.format('%.0f', ms + timeout), owner) end
end

local function claim(q, tag, text)
  if ARGV[6 + q] == '' then return '' end
  local inbox = inboxes[q]
  if not inbox then
    local retention, base = string.match(ARGV[6 + q], '^(%d+) (.+)$')
    inbox = {base, tonumber(retention)}
    inboxes[q] = inbox
  end
  -- A key of somebody else's in the place of the handler's must not keep its messages in the queue.
  local fine, answer = pcall(claim_copy, inbox[1], inbox[2], KEYS[2], tag, text, ms)
  if not fine then return '' end
  if answer == 'done' then
    redis.call('HDEL', KEYS[2], tag)
    pcall(redis.call, 'HINCRBY', inbox[1] .. 'counts', 'repeated', 1)
  end
  return answer
end

-- Lists that turned out to be no lists, and those of which nothing is left.
local out, no_list, empty = {0}, {}, {}
local function take(q, list, limit)
  if limit <= 0 or no_list[list] or empty[list] then return end
  local got = redis.pcall('LRANGE', list, -limit, -1)
  if got.err then
    -- It must not keep the messages of all other queues from being taken.
    no_list[list] = true
    out[#out + 1], out[#out + 2], out[#out + 3], out[#out + 4] = -q, '', list, ''
    return
  end
  empty[list] = #got < limit
  if #got == 0 then return end
  local records, tags, quick = {}, {}, string.sub(noack, q, q) == '1'
  for i = #got, 1, -1 do
    sequence = sequence + 1
    tags[i] = quick and '' or owner .. ':' .. string.format('%d', sequence)
    if not quick then
      records[#records + 1], records[#records + 2] = tags[i], list .. '\0' .. KEYS[2 + q] .. '\0' .. got[i]
    end
  end
  if #records > 0 then redis.call('HSET', KEYS[2], unpack(records)) end
  for i = #got, 1, -1 do
    local claimed = quick and '' or claim(q, tags[i], got[i])
    if claimed ~= 'done' then
      out[#out + 1], out[#out + 2], out[#out + 3], out[#out + 4] = q, tags[i], got[i], claimed
    end
  end
  redis.call('LTRIM', list, 0, -#got - 1)
  left = left - #got
end

local first, last = 3 + n, #KEYS
-- One look tells whether any but the first priority holds something; usually none does.
local priorities = 1
if last >= first + n and redis.call('EXISTS', unpack(KEYS, first + n, last)) > 0 then
  priorities = (last - first + 1) / n
end
for priority = 0, priorities - 1 do
  for q = 1, n do take(q, KEYS[first + priority * n + q - 1], math.min(turn, left)) end
  if turn < left then
    for q = 1, n do take(q, KEYS[first + priority * n + q - 1], left) end
  end
end

local idle = {}
for q = 1, n do
  local waiting = 0
  for priority = 0, priorities - 1 do
    local list = KEYS[first + priority * n + q - 1]
    if not (no_list[list] or empty[list]) then waiting = waiting + redis.call('EXISTS', list) end
  end
  if waiting > 0 then
    out[1] = 1
    wake(KEYS[2 + q])
  else
    idle[#idle + 1] = KEYS[2 + q]
  end
end
if #idle > 0 then redis.call('DEL', unpack(idle)) end
return out
