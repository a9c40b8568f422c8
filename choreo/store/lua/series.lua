-- Shared functions, for `--!include store/series` after redis_client/now: the events of one key, in their order.
--
-- enter(unit, time): give the event a place in the series, unless it has one.
-- finished(unit, retention): true if the unit is finished for good. Needs redis_client/inbox.
-- leave(unit): remove it from the series, and the copy of it that waits.
-- forget_copy(unit): remove that copy only, unless a worker may be sending it.
-- call_next(retention, grace, called, asked): give the turn to the first event that is not finished; its copy falls due
--     in `grace` ms. Returns {} or {schedule id, message} of that copy. `called` and `asked`: see store/turns.py, in ms.
-- keep(ms): remember the series for so long at least.
-- KEYS[1] series         ZSET '<number of arrival>:<unit>' -> time of the event in microseconds; expires
-- KEYS[2] places         HASH 'm:' .. unit -> its member of the series; 'e:' .. unit -> the schedule id of its copy;
--     '#' -> the number of the last arrival; '?' -> the unit that got the turn without a copy, and has not asked since;
--     expires with the series
-- KEYS[3] turn           STRING the unit that has the turn; expires when it is lost
-- KEYS[4] due            ZSET, see due.lua   KEYS[5] messages   HASH schedule id -> message
-- KEYS[6] done           start of the names of the inbox's HASHes: see redis_client/lua/inbox.lua
-- (They name more keys, in the same slot of a cluster: 'unit:' .. unit, HASH, see claim_unit.lua, beside KEYS[6].)
-- ARGV: none of its own.
-- Returns: see the functions.

local function enter(unit, time)
  if redis.call('HEXISTS', KEYS[2], 'm:' .. unit) == 1 then return end
  local member = string.format('%016d:%s', redis.call('HINCRBY', KEYS[2], '#', 1), unit)
  redis.call('ZADD', KEYS[1], time, member)
  redis.call('HSET', KEYS[2], 'm:' .. unit, member)
end

local function finished(unit, retention)
  local base = string.sub(KEYS[6], 1, -#'done:' - 1)
  return redis.call('HEXISTS', base .. 'unit:' .. unit, 'done') == 1
    or inbox_has(KEYS[6], inbox_place(unit), retention, now_ms())
end

local function forget_copy(unit)
  local id = redis.call('HGET', KEYS[2], 'e:' .. unit)
  if not id then return end
  redis.call('HDEL', KEYS[2], 'e:' .. unit)
  local score = tonumber(redis.call('ZSCORE', KEYS[4], id) or -1)
  if score >= 0 and score % 1 == 0 then
    redis.call('ZREM', KEYS[4], id)
    redis.call('HDEL', KEYS[5], id)
  end
end

local function leave(unit)
  local member = redis.call('HGET', KEYS[2], 'm:' .. unit)
  if member then redis.call('ZREM', KEYS[1], member) end
  redis.call('HDEL', KEYS[2], 'm:' .. unit)
  forget_copy(unit)
  if redis.call('HGET', KEYS[2], '?') == unit then redis.call('HDEL', KEYS[2], '?') end
end

local function call_next(retention, grace, called, asked)
  local first = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  while first do
    local unit = string.sub(first, 18)
    local id = redis.call('HGET', KEYS[2], 'e:' .. unit)
    local message = id and redis.call('HGET', KEYS[5], id)
    if message then
      redis.call('SET', KEYS[3], unit, 'PX', called)
      redis.call('HDEL', KEYS[2], '?')
      redis.call('ZADD', KEYS[4], 'XX', now_ms() + grace, id)
      return {id, message}
    end
    if not finished(unit, retention) then
      redis.call('SET', KEYS[3], unit, 'PX', asked)
      redis.call('HSET', KEYS[2], '?', unit)
      return {}
    end
    -- It was settled without its turn: by hand, say.
    leave(unit)
    first = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  end
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  return {}
end

local function keep(ms)
  for i = 1, 2 do
    if redis.call('PTTL', KEYS[i]) < tonumber(ms) then redis.call('PEXPIRE', KEYS[i], ms) end
  end
end
