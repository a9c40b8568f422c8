-- Shared by commit.lua and commit_beside.lua, which it is put in front of, after the broker's inbox.lua.
--
-- settle() answers 'ok' | 'already' | 'stale' (somebody else has it, or had) | 'lost' (nobody has it, and nobody did
-- it: this server has forgotten the claim). It reads
-- KEYS 1 unit           HASH, see lease.lua; gone once done. Of a join, and of what is a dead letter, that alone is
--                       kept: whoever replays it need not know for how long its service remembers
--      2 parts          HASH, a join's parts; gone once done
--      3 due            ZSET schedule id -> time in ms        4 post   HASH schedule id -> message
--      5 letters        HASH dead letter id -> JSON           6 index  ZSET dead letter id -> time in ms
--      7 done           start of the names of the HASHes of what is done, for the retention: see inbox.lua
-- ARGV 1 token          2 attempt, see lease.lua   3 '1' when done   4 retention in ms
--      5 the unit, as it is remembered in `done`; '' for a join
--      6 dead letter id, '' for none     7 dead letter
--      8 how many schedule ids are no longer wanted (u)       9 how many messages are scheduled (s)
--      10.. the u unwanted ids, then s times: schedule id, delay in ms, message
-- What a script of its own needs begins at ARGV[own], with own = 10 + u + 3 * s.

local own = 10 + ARGV[8] + 3 * ARGV[9]

local function settle()
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local retention, place = tonumber(ARGV[4]), ARGV[5] ~= '' and inbox_place(ARGV[5])

  local attempt, signal = string.match(ARGV[2], '^(%d+)(.*)$')
  local field = 'settled' .. signal
  attempt = tonumber(attempt)
  local state = redis.call('HMGET', KEYS[1], 'done', 'token', field)
  if state[1] then return 'already' end
  if state[2] ~= ARGV[1] then
    if place and inbox_has(KEYS[7], place, retention, now) then return 'already' end
    return (state[2] or (attempt > 0 and tonumber(state[3] or 0) >= attempt)) and 'stale' or 'lost'
  end

  if ARGV[3] == '1' then
    redis.call('DEL', KEYS[1], KEYS[2])
    if place and ARGV[6] == '' then
      inbox_add(KEYS[7], place, retention, now)
    else
      redis.call('HSET', KEYS[1], 'done', 1)
      redis.call('PEXPIRE', KEYS[1], retention)
    end
  else
    redis.call('HDEL', KEYS[1], 'token', 'until', 'inflight', 'deliveries')
    if attempt > 0 then redis.call('HSET', KEYS[1], field, attempt) end
    redis.call('PEXPIRE', KEYS[1], retention)
  end

  if ARGV[6] ~= '' then
    redis.call('HSET', KEYS[5], ARGV[6], ARGV[7])
    redis.call('ZADD', KEYS[6], now, ARGV[6])
  end

  local first = 10 + ARGV[8]
  for i = 10, first - 1 do
    redis.call('ZREM', KEYS[3], ARGV[i])
    redis.call('HDEL', KEYS[4], ARGV[i])
  end
  for i = first, own - 1, 3 do
    redis.call('ZADD', KEYS[3], 'NX', now + ARGV[i + 1], ARGV[i])
    redis.call('HSETNX', KEYS[4], ARGV[i], ARGV[i + 2])
  end
  return 'ok'
end

