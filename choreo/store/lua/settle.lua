-- Shared by commit.lua and commit_beside.lua, which it is put in front of, after the broker's inbox.lua.
--
-- settle(i) settles the claim that ARGV[i] begins, and answers 'ok' | 'already' | 'stale' (somebody else has it, or
-- had) | 'lost' (nobody has it, and nobody did it: this server has forgotten the claim). It reads
-- KEYS 1 due            ZSET schedule id -> time in ms        2 post   HASH schedule id -> message
--      3 letters        HASH dead letter id -> JSON           4 index  ZSET dead letter id -> time in ms
--      5 done           start of the names of the HASHes of what is done, for the retention: see inbox.lua
-- (Two more of the same handler, so in the same slot of a cluster, are named by its units:
--      ARGV[1] .. 'unit:' .. unit    HASH, see lease.lua; gone once done. Of a join, and of what is a dead letter, that
--                       alone is kept: whoever replays it need not know for how long its service remembers
--      ARGV[1] .. 'parts:' .. unit   HASH, a join's parts; gone once done)
-- ARGV 1 how the names of the handler's keys begin
--      i token          i+1 attempt, see lease.lua       i+2 '0' when not done; '1' when it is, '2' if `done` keeps that
--      i+3 retention    in ms                            i+4 unit
--      i+5 how many of each follow: '<dead letters> <ids> <scheduled> <messages>'; '' for none
--      i+6.. dead letters: id, JSON; schedule ids that are no longer wanted; scheduled: id, delay in ms, message;
--          the messages are the script's own

-- How many dead letters, unwanted ids, scheduled and other messages follow, and where the last ones begin.
local function shape(i)
  if ARGV[i + 5] == '' then return 0, 0, 0, 0, i + 6 end
  local letters, unwanted, scheduled, messages = string.match(ARGV[i + 5], '^(%d+) (%d+) (%d+) (%d+)$')
  return tonumber(letters), tonumber(unwanted), tonumber(scheduled), tonumber(messages),
    i + 6 + 2 * letters + unwanted + 3 * scheduled
end

local clock
local function now_ms()
  if not clock then
    local time = redis.call('TIME')
    clock = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock
end

local function settle(i)
  local now, token, unit = now_ms(), ARGV[i], ARGV[i + 4]
  local key, parts = ARGV[1] .. 'unit:' .. unit, ARGV[1] .. 'parts:' .. unit
  local retention, place = tonumber(ARGV[i + 3]), ARGV[i + 2] == '2' and inbox_place(unit)
  local letters, unwanted, scheduled = shape(i)

  local attempt, signal = string.match(ARGV[i + 1], '^(%d+)(.*)$')
  local field = 'settled' .. signal
  attempt = tonumber(attempt)
  local state = redis.call('HMGET', key, 'done', 'token', field)
  if state[1] then return 'already' end
  if state[2] ~= token then
    if inbox_has(KEYS[5], place or inbox_place(unit), retention, now) then return 'already' end
    return (state[2] or (attempt > 0 and tonumber(state[3] or 0) >= attempt)) and 'stale' or 'lost'
  end

  -- Should a key be of another kind than it has to be, that ends the script here. So the unit is settled last: it runs
  -- again then, and what was written before is written again.
  local at = i + 6
  for _ = 1, letters do
    redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
    redis.call('ZADD', KEYS[4], now, ARGV[at])
    at = at + 2
  end
  for _ = 1, unwanted do
    redis.call('ZREM', KEYS[1], ARGV[at])
    redis.call('HDEL', KEYS[2], ARGV[at])
    at = at + 1
  end
  for _ = 1, scheduled do
    redis.call('ZADD', KEYS[1], 'NX', now + ARGV[at + 1], ARGV[at])
    redis.call('HSETNX', KEYS[2], ARGV[at], ARGV[at + 2])
    at = at + 3
  end

  if ARGV[i + 2] == '0' then
    redis.call('HDEL', key, 'token', 'until', 'inflight', 'deliveries')
    if attempt > 0 then redis.call('HSET', key, field, attempt) end
    redis.call('PEXPIRE', key, retention)
  elseif place then
    inbox_add(KEYS[5], place, retention, now)
    redis.call('DEL', key, parts)
  else
    redis.call('DEL', key, parts)
    redis.call('HSET', key, 'done', 1)
    redis.call('PEXPIRE', key, retention)
  end
  return 'ok'
end

