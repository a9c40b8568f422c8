-- Shared function, for `--!include store/claim_unit` after redis_client/now, in begin.lua and arrive.lua: claim a unit.
--
-- claim(unit, parts, attempt, token, lease_ms, max_deliveries, retention_ms, inflight, ahead)
-- KEYS/ARGV: none of its own.
-- Returns: {'done'} | {'busy', ms left} | {'poison' or 'run', deliveries, part's name, part, part's name, part, ...}
--
-- unit is a HASH:
--   done        once a join, or a unit with a dead letter, is finished: 1 or a note, see Settlement.note. Any other
--               finished unit is in the inbox
--   settled     the highest attempt whose outcome is recorded. settled:<event id> is the same for a signal, such as a
--               join's deadline, whose attempts are counted apart. An attempt is a number, or '<number>:<event id>'
--   token       the token of the current claim
--   until       the time at which its lease runs out, in ms of this server's clock
--   inflight    the HASH of its consumer's messages in flight (see the broker's take.lua)
--   deliveries  how often the current attempt was begun
--   ended       how the process ended that began it: the number of the beginning, a space, a text. See record_end.lua
--   before      who had the claim before the current one, and never finished: its `inflight`, or else its `token`
--
-- A claim holds while its lease runs (`until`), or while its message is in flight (`inflight`): its token is then the
-- tag of the message, a field of that HASH until the message is acked or returned.
-- The argument inflight is '' if the copy was not taken from this server.
--
-- With ahead, the claim is made before the handler's turn, and does not count as begun. If the consumer of a copy in
-- flight dies, the broker notes the messages that had begun. Such a claim is given only if the unit was not begun
-- before, and if inflight names a HASH in which the copy is. Otherwise the answer is {'busy', 0}, and the worker asks
-- again in the handler's turn.

-- Returns 1 if a unit had begun that was claimed when its message was taken, else 0. It began without a call of the
-- store. When the consumer died, or returned the message, the broker noted which messages had begun: see give_back.lua.
local function begun_silently(token, inflight)
  return redis.call('SISMEMBER', (string.gsub(inflight, '_choreo%.inflight%.', '_choreo.begun.', 1)), token)
end

local function claim(unit, parts, attempt, token, lease_ms, max_deliveries, retention_ms, inflight, ahead)
  local number, signal = string.match(attempt, '^(%d+)(.*)$')
  number = tonumber(number)
  local state = redis.call('HMGET', unit, 'done', 'settled' .. signal, 'token', 'until', 'deliveries', 'inflight')
  if state[1] then return {'done'} end
  if number > 0 and tonumber(state[2] or 0) >= number then return {'done'} end
  local now = now_ms()
  local left = tonumber(state[4] or 0) - now
  if left <= 0 and state[6] and redis.call('HEXISTS', state[6], state[3]) == 1 then left = lease_ms end
  if left > 0 and state[3] ~= token then return {'busy', left} end
  local before = state[5] or (state[6] and state[3] ~= token and begun_silently(state[3], state[6])) or 0
  -- A call that is repeated because its answer got lost counts as one beginning.
  local is_repeated = state[3] == token and state[5]
  local deliveries = tonumber(before) + (is_repeated and 0 or 1)
  -- False if the copy was returned to its queue while this worker slept. The claim then gets a lease.
  local is_here = inflight ~= '' and redis.call('HEXISTS', inflight, token) == 1
  if ahead and (deliveries > 1 or (inflight ~= '' and not is_here)) then return {'busy', 0} end
  if deliveries > 1 and state[3] and state[3] ~= token then redis.call('HSET', unit, 'before', state[6] or state[3]) end
  redis.call('HSET', unit, 'token', token)
  if not ahead then redis.call('HSET', unit, 'deliveries', deliveries) end
  if is_here then
    redis.call('HSET', unit, 'inflight', inflight)
    redis.call('HDEL', unit, 'until')
  else
    redis.call('HSET', unit, 'until', now + lease_ms)
    redis.call('HDEL', unit, 'inflight')
  end
  redis.call('PEXPIRE', unit, retention_ms)
  local answer = {deliveries > max_deliveries and 'poison' or 'run', deliveries}
  for _, text in ipairs(redis.call('HGETALL', parts)) do answer[#answer + 1] = text end
  return answer
end

