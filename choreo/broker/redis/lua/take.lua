#!lua flags=allow-oom
-- Take messages: ack earlier ones, move messages from their queues to in flight, and claim their units, in one step.
--
-- KEYS[1] consumers     sorted set, permanent: owner -> the time in ms at which it counts as dead; 0 = it is leaving
-- KEYS[2] in flight     hash, exists while it holds messages: tag -> queue key \0 wake-up mark's key \0 message
-- KEYS[3..2+n]          wake-up marks of the n queues: lists, for an hour: see wake.lua
-- KEYS[3+n..]           lists of the n queues for the first priority, then for the second, and so on
-- ARGV[1] owner; '' if every queue is consumed without acks
-- ARGV[2] the most messages to take       ARGV[3] the most from one queue before the other queues had a turn; then, for
--         each queue with a limit of its own, ' <queue number>:<the most messages from it>'
-- ARGV[4] the sequence number before the first new tag
-- ARGV[5] n     ARGV[6] for each queue '1' if it is consumed without acks, else '0'
-- ARGV[7..6+n]          for each queue the retention of its handler's inbox in ms, a space, and the start of the names
--                       of the handler's keys: see claim_copy.lua; '' if the inbox is not on this server
-- ARGV[7+n..] tags to ack
-- Returns: {-1} if the owner is not registered, or no longer: nothing was taken.
--     Otherwise {1 if messages are left else 0, then for each message: queue number, tag, message, claim}. The claim is
--     the answer of claim_copy. Copies of finished units are dropped and counted, and not in the answer.
--     If the key of a queue is no list, its entry is -queue number, '', the key, ''.
--
-- Guarantees: a message leaves its queue and is in flight in one step. The records are written before the queue is
--     trimmed: if the server refuses the write, the message is still in its queue.
--     A claim holds as long as its record in flight, so as long as the owner lives. A take also prolongs the owner's
--     life: no consumer can find the owner dead before its timeout has passed, so until then the claim need not be
--     checked again. An owner that was silent first gives those time that an outage has made silent: see dead.lua.
-- The script also runs when memory is full (allow-oom), because taking and acking frees memory.
--!include broker/redis/wake
--!include redis_client/inbox
--!include redis_client/now
--!include broker/redis/claim_copy
--!include broker/redis/dead
-- A shorter silence is no outage.
local SILENCE_MS = 250
local owner, left = ARGV[1], tonumber(ARGV[2])
-- Usually no queue has a limit of its own, and `most` is nil.
local turn, most = tonumber(ARGV[3]), nil
if not turn then
  turn, most = tonumber(string.match(ARGV[3], '^%d+')), {}
  for q, limit in string.gmatch(ARGV[3], '(%d+):(%d+)') do most[tonumber(q)] = tonumber(limit) end
end
local sequence, n, noack = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
for i = 7 + n, #ARGV, 500 do
  redis.call('HDEL', KEYS[2], unpack(ARGV, i, math.min(i + 499, #ARGV)))
end
local ms, inboxes = nil, {}
if owner ~= '' then
  local deadline = redis.call('ZSCORE', KEYS[1], owner)
  if not deadline or tonumber(deadline) == 0 then return {-1} end
  ms = now_ms()
  local timeout = tonumber(string.match(owner, '%-(%d+)$'))
  if timeout then
    local silence = ms - (tonumber(deadline) - timeout)
    -- The dead are found again with the next beat.
    if silence > SILENCE_MS then find_dead(KEYS[1], owner, timeout, silence, ms) end
    redis.call('ZADD', KEYS[1], 'XX', 'GT', string.format('%.0f', ms + timeout), owner)
  end
end

local function claim(q, tag, text)
  if ARGV[6 + q] == '' then return '' end
  local inbox = inboxes[q]
  if not inbox then
    local retention, base = string.match(ARGV[6 + q], '^(%d+) (.+)$')
    inbox = {base, tonumber(retention)}
    inboxes[q] = inbox
  end
  -- A handler's key of another type must not keep the messages in the queue.
  local fine, answer = pcall(claim_copy, inbox[1], inbox[2], KEYS[2], tag, text, ms)
  if not fine then return '' end
  if answer == 'done' then
    redis.call('HDEL', KEYS[2], tag)
    pcall(redis.call, 'HINCRBY', inbox[1] .. 'counts', 'repeated', 1)
  end
  return answer
end

-- no_list: keys of queues that are no lists. empty: lists without a message left.
local out, no_list, empty = {0}, {}, {}
local function take(q, list, limit)
  if most and most[q] then limit = math.min(limit, most[q]) end
  if limit <= 0 or no_list[list] or empty[list] then return end
  local got = redis.pcall('LRANGE', list, -limit, -1)
  if got.err then
    -- The messages of all other queues can still be taken.
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
  if most and most[q] then most[q] = most[q] - #got end
end

local first, last = 3 + n, #KEYS
-- Usually only the lists of the first priority hold messages: one EXISTS for all others shows it.
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
