#!lua flags=allow-oom
-- Return messages in flight to the front of their own queues, where they are taken next.
--
-- KEYS[1] consumers   sorted set, permanent: owner -> the time in ms at which it counts as dead; 0 = it is leaving
-- KEYS[2] in flight   hash, exists while it holds messages: tag -> queue key \0 wake-up mark's key \0 message
-- KEYS[3] begun       set, for a day: tags of messages that the owner had begun: see the store's claim_unit.lua
-- (The records name the queues, lists, permanent; and their wake-up marks, lists, for an hour.)
-- ARGV[1] owner       ends with '-', how many messages it handles at the same time, '-', its timeout in ms
-- ARGV[2] '0' the owner asks; none of these messages counts as begun
--         '1' another consumer asks. Nothing is done unless the owner is dead by the server's clock. The owner's oldest
--             messages count as begun, as many as it handles at the same time
--         '2' the owner asks; all these messages count as begun
-- ARGV[3..] tag, message, tag, message, ...: the newest first. The message is the text for the queue, '' for unchanged
-- Returns: {the number of messages returned, or -1 if the owner is alive; then tag and queue key of each message that
--     stays in flight, because the key of its queue is no list}.
--
-- A message that was acked in the meantime has no record, and is skipped.
-- An owner that is dead or leaving, and has no message left, is removed from the consumers.
--!include redis_client/now
--!include broker/redis/wake
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
local ms = now_ms()
local dead = not deadline or tonumber(deadline) <= ms
if ARGV[2] == '1' and not dead then return {-1} end
local given, marks, begun, stuck = {}, {}, {}, {}
for i = 3, #ARGV, 2 do
  local record = redis.call('HGET', KEYS[2], ARGV[i])
  if record then
    local first = string.find(record, '\0', 1, true)
    local second = string.find(record, '\0', first + 1, true)
    local message = ARGV[i + 1] ~= '' and ARGV[i + 1] or string.sub(record, second + 1)
    local queue = string.sub(record, 1, first - 1)
    local kind = redis.call('TYPE', queue).ok
    if kind == 'list' or kind == 'none' then
      redis.call('RPUSH', queue, message)
      redis.call('HDEL', KEYS[2], ARGV[i])
      marks[string.sub(record, first + 1, second - 1)] = true
      given[#given + 1] = ARGV[i]
    else
      stuck[#stuck + 1], stuck[#stuck + 2] = ARGV[i], queue
    end
  end
end
if ARGV[2] == '2' then
  begun = given
elseif ARGV[2] == '1' then
  -- The newest come first, in each call and from call to call: messages still in flight are older.
  local at_a_time, older = tonumber(string.match(ARGV[1], '%-(%d+)%-%d+$') or 1), redis.call('HLEN', KEYS[2])
  for i = math.max(1, #given + older - at_a_time + 1), #given do begun[#begun + 1] = given[i] end
end
if #begun > 0 then
  redis.call('SADD', KEYS[3], unpack(begun))
  redis.call('PEXPIRE', KEYS[3], 86400000)
end
for mark in pairs(marks) do wake(mark) end
if deadline and (tonumber(deadline) == 0 or (ARGV[2] == '1' and dead)) and redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return {#given, unpack(stuck)}
