#!lua flags=allow-oom
-- A consumer says that it lives, and hears who died.
--
-- KEYS[1] consumers   sorted set, permanent: owner -> the ms at which it counts as dead; 0 = it is leaving; with a
--                     fraction if it is a second chance
-- KEYS[2] in flight   hash, lives as long as it holds messages: tag -> queue key \0 token key \0 message
-- ARGV[1] owner: its name ends with '-' and ARGV[2], so that others know how patient to be with it
-- ARGV[2] for how many ms it counts as living from now on
-- ARGV[3] '1' to register a new owner, '0' to prolong a registered one
-- Returns: {1 if registered, 0 if not (any more); owners whose time has passed ...}.
local now = redis.call('TIME')
local ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local consumers, timeout = KEYS[1], tonumber(ARGV[2])
local new_deadline = string.format('%.0f', ms + timeout)
if ARGV[3] == '1' then
  redis.call('ZADD', consumers, new_deadline, ARGV[1])
  return {1}
end

local deadline = tonumber(redis.call('ZSCORE', consumers, ARGV[1]) or '-1')
if deadline == 0 then return {0} end
if deadline < 0 then
  -- Who was buried has nothing in flight. Something in flight, but no entry: the server lost the entry.
  if redis.call('EXISTS', KEYS[2]) == 0 then return {0} end
  redis.call('ZADD', consumers, new_deadline, ARGV[1])
  return {1}
end

redis.call('ZADD', consumers, new_deadline, ARGV[1])
local function timeout_of(owner) return tonumber(string.match(owner, '%-(%d+)$')) or timeout end
local function silence_of(owner, deadline_of) return ms - (tonumber(deadline_of) - timeout_of(owner)) end
local my_silence = ms - (deadline - timeout)

-- How long ago any consumer was heard of before this one.
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
      -- Nobody was heard of: the server was away, and nobody died of that. The time of this owner starts anew.
      redis.call('ZADD', consumers, string.format('%.0f', ms + patience), owner)
    end
    -- Else this consumer alone was cut off, and is not the one to judge.
  elseif until_ms % 1 ~= 0 then
    out[#out + 1] = owner
  else
    -- This consumer is as punctual as ever, but beats so rarely that the server may have been away just for as long as
    -- the owner was silent. It gets its time once more; the fraction says so, and its next beat takes that away.
    redis.call('ZADD', consumers, string.format('%.1f', ms + patience + 0.5), owner)
  end
end
return out
