#!lua flags=allow-oom
-- Beat: prolong the life of a consumer's owner, and find the owners that are dead.
--
-- KEYS[1] consumers   sorted set, permanent: owner -> the time in ms at which it counts as dead: see dead.lua
-- KEYS[2] in flight   hash, exists while it holds messages: tag -> queue key \0 wake-up mark's key \0 message
-- ARGV[1] owner       ends with '-' and its timeout in ms, which other consumers read there
-- ARGV[2] timeout     ms for which the owner counts as alive from now on
-- ARGV[3] '1' to register a new owner, '0' to prolong a registered one
-- Returns: {1 if the owner is registered, 0 if not; then the dead owners ...}.
--!include redis_client/now
--!include broker/redis/dead
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

local dead = find_dead(consumers, ARGV[1], timeout, ms - (deadline - timeout), ms)
redis.call('ZADD', consumers, new_deadline, ARGV[1])
return {1, unpack(dead)}
