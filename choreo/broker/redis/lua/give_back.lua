#!lua flags=allow-oom
-- Move messages from in flight back to the front of their own queues, where they are taken next.
--
-- KEYS[1] consumers   sorted set, permanent: owner -> the ms at which it counts as dead; 0 = it is leaving
-- KEYS[2] in flight   hash, lives as long as it holds messages: tag -> queue key \0 token key \0 message
-- KEYS[3] begun       set, a day: the tags of which the owner was busy with the messages: see the store's lease.lua
-- (The queues and their tokens are named by the records: lists, permanent; lists, an hour.)
-- ARGV[1] owner: how many messages it is busy with at a time stands before its patience at the end of its name
-- ARGV[2] '1' if the owner must be dead by the server's clock, else nothing is done; then it was busy with the oldest
--     '0' if the owner itself asks; '2' if it says that it was busy with what goes back
-- ARGV[3..] tag, message, tag, message, ...: the newest first; the message as it shall be in the queue, '' as it was
-- Returns: {the number of messages given back, or -1 if the owner proved to be alive;
--     then the tag and the queue key of each message that stays in flight, since another kind of key is in the place
--     of its queue}.
--
-- A message acked in the meantime has no record any more and is skipped.
-- An owner that is dead or leaving and holds nothing more is forgotten.
--!include broker/redis/wake
local deadline = redis.call('ZSCORE', KEYS[1], ARGV[1])
local now = redis.call('TIME')
local ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local dead = not deadline or tonumber(deadline) <= ms
if ARGV[2] == '1' and not dead then return {-1} end
local given, tokens, begun, stuck = {}, {}, {}, {}
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
      tokens[string.sub(record, first + 1, second - 1)] = true
      given[#given + 1] = ARGV[i]
    else
      stuck[#stuck + 1], stuck[#stuck + 2] = ARGV[i], queue
    end
  end
end
if ARGV[2] == '2' then
  begun = given
elseif ARGV[2] == '1' then
  -- The newest come first, also from call to call: what is still in flight is older.
  local at_a_time, older = tonumber(string.match(ARGV[1], '%-(%d+)%-%d+$') or 1), redis.call('HLEN', KEYS[2])
  for i = math.max(1, #given + older - at_a_time + 1), #given do begun[#begun + 1] = given[i] end
end
if #begun > 0 then
  redis.call('SADD', KEYS[3], unpack(begun))
  redis.call('PEXPIRE', KEYS[3], 86400000)
end
for token in pairs(tokens) do wake(token) end
if deadline and (tonumber(deadline) == 0 or (ARGV[2] == '1' and dead)) and redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
end
return {#given, unpack(stuck)}
