-- Shared by begin.lua and arrive.lua, which it is put in front of.
--
-- claim(unit, parts, attempt, token, lease_ms, max_deliveries, retention_ms, inflight, ahead) answers
--   {'done'} | {'busy', ms left} | {'poison' or 'run', deliveries, part, envelope, part, envelope, ...}
--
-- The unit is a HASH:
--   done        1 once a join, or what is a dead letter, is finished for good; any other unit's end is in inbox.lua
--   settled     the highest attempt whose outcome is recorded; settled:<event id> is that of a signal, such as a
--               join's deadline: its attempts are counted apart. An attempt is a number, or '<number>:<event id>'
--   token       whose claim it is
--   until       until when it holds (ms, this server's clock)
--   inflight    the HASH of the messages that its consumer has in its hands: the claim holds as long as the token,
--               the tag of the message, is a field there, which ends with the consumer (see the broker's take.lua)
--   deliveries  how often the current attempt was begun
-- A claim holds as long as `until` or `inflight` says so. `inflight` is '' where the copy was not taken from this server.
-- Who claims `ahead` of the handler's turn has not begun: what counts is whether its owner was found busy with it. It
-- gets only what nobody has begun before, for a copy that is in flight; 'busy' tells it to ask again in its turn.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whether the last owner of a unit had begun it, which was claimed when its message was taken, without saying so: the
-- broker noted what that owner was busy with when it died, or gave the message back. See its give_back.lua.
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
  -- Whoever asks again because the answer got lost begins once.
  local again = state[3] == token and state[5]
  local deliveries = tonumber(before) + (again and 0 or 1)
  -- A copy that went back to its queue while its worker slept does not keep anybody out.
  local is_here = inflight ~= '' and redis.call('HEXISTS', inflight, token) == 1
  if ahead and (deliveries > 1 or not is_here) then return {'busy', 0} end
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

