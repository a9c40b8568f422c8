#!lua flags=allow-oom
-- Beat: prolong the life of a consumer's owner, and find the owners that are dead.
--
-- KEYS[1] consumers   sorted set, permanent: owner -> the time in ms at which it counts as dead; 0 = it is
--                     leaving; with a fraction if its time was started a second time
-- KEYS[2] in flight   hash, exists while it holds messages: tag -> queue key \0 wake-up mark's key \0 message
-- ARGV[1] owner       ends with '-' and its timeout in ms, which other consumers read there
-- ARGV[2] timeout     ms for which the owner counts as alive from now on
-- ARGV[3] '1' to register a new owner, '0' to prolong a registered one
-- Returns: {1 if the owner is registered, 0 if not; then the dead owners ...}.
--
-- An owner whose time has passed is dead, but an outage of the server must make no owner count as dead. The script
-- tells one from the other by the silence of the calling consumer, the time since its last beat:
--   up to half of the other owner's timeout: the server was reachable, so the other owner is dead;
--   more than half of its own timeout: this consumer or the server was away. If no other consumer was heard of, it was
--       the server, and the other owner's time starts again. Else this consumer leaves the decision to others;
--   in between, if its own timeout is much longer: the other owner's time starts again once. After that it is dead.
-- An owner that is leaving counts as dead at once.
--!include redis_client/now
local ms = now_ms()
local consumers, timeout = KEYS[1], tonumber(ARGV[2])
local new_deadline = string.format('%.0f', ms + timeout)
if ARGV[3] == '1' then
  redis.call('ZADD', consumers, new_deadline, ARGV[1])
  return {1}
end

local deadline = tonumber(redis.call('ZSCORE', consumers, ARGV[1]) or '-1')
if deadline == 0 then return {0} end
if deadline < 0 then
  -- An owner found dead has nothing in flight. If something is in flight, the server has lost the owner's entry.
  if redis.call('EXISTS', KEYS[2]) == 0 then return {0} end
  redis.call('ZADD', consumers, new_deadline, ARGV[1])
  return {1}
end

redis.call('ZADD', consumers, new_deadline, ARGV[1])
local function timeout_of(owner) return tonumber(string.match(owner, '%-(%d+)$')) or timeout end
local function silence_of(owner, deadline_of) return ms - (tonumber(deadline_of) - timeout_of(owner)) end
local my_silence = ms - (deadline - timeout)

-- The time since the latest beat of any consumer, without this beat.
local function latest_sign_of_life()
  local least, all = my_silence, redis.call('ZRANGEBYSCORE', consumers, '(0', '+inf', 'WITHSCORES')
  for i = 1, #all, 2 do
    if all[i] ~= ARGV[1] then least = math.min(least, silence_of(all[i], all[i + 1])) end
  end
  return least
end

local out, latest = {1}, nil
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', consumers, '-inf', string.format('%.0f', ms), 'LIMIT', 0, 100)) do
  local patience, until_ms = timeout_of(owner), tonumber(redis.call('ZSCORE', consumers, owner))
  local grace = patience / 2
  if until_ms == 0 or my_silence <= grace then
    out[#out + 1] = owner
  elseif my_silence > timeout / 2 then
    latest = latest or latest_sign_of_life()
    if latest > grace then
      -- No consumer was heard of, so the server was away. The time of this owner starts again.
      redis.call('ZADD', consumers, string.format('%.0f', ms + patience), owner)
    end
    -- Else only this consumer was cut off, so it leaves the decision to others.
  elseif until_ms % 1 ~= 0 then
    out[#out + 1] = owner
  else
    -- This consumer beats in time, but so rarely that the server may have been away while the owner was silent. The
    -- owner's time starts again. The fraction marks that, and the owner's next beat removes it.
    redis.call('ZADD', consumers, string.format('%.1f', ms + patience + 0.5), owner)
  end
end
return out
