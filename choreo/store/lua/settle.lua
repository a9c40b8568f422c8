-- Shared functions, for `--!include store/settle` after redis_client/inbox, redis_client/now and store/cabinet: settle a
-- claim. Used by commit.lua and choreo/fast/lua/commit_fused.lua.
--
-- A claim whose token is '' settles nothing: it holds what leaves if any of the claims after it is settled.
-- settle(i) settles the claim whose arguments begin at ARGV[i].
-- Returns: 'ok' | 'already' (the unit was settled before) | 'stale' (another worker has the claim, or had it)
--     | 'lost' (the unit is neither claimed nor settled: this server has lost data)
-- KEYS[1] due            ZSET schedule id -> time in ms   KEYS[2] messages   HASH schedule id -> message
-- KEYS[3] letters        HASH dead letter id -> JSON   KEYS[4] index   ZSET dead letter id -> time in ms
-- KEYS[5] done           start of the names of the inbox's HASHes: see redis_client/lua/inbox.lua
-- (The script names more keys, in the same slot of a cluster:
--     ARGV[1] .. 'tally'            HASH, permanent: see arrive.lua
--     ARGV[1] .. 'unit:' .. unit    HASH, see claim_unit.lua; deleted once the unit is finished. But for a join, and a
--         unit with a dead letter, its field `done` is kept instead of an entry in the inbox: so a replay need not know
--         the retention of the service
--     ARGV[1] .. 'parts:' .. unit   HASH, a join's parts; deleted once the join is finished
--     those of cabinet.lua
--     ARGV[1] .. 'runs:' .. number, 'subjects:' .. number   STREAMs, for the lifetime of the record: see store/runs.py)
-- ARGV[1] start of the names of the handler's keys   ARGV[2] '<most entries of one STREAM> <lifetime in ms>'
-- ARGV[i] token          ARGV[i+1] attempt, see claim_unit.lua
-- ARGV[i+2] '0' if only the attempt is settled; '2' if the unit is finished, and kept in the inbox; any other text: it
--     is finished, and the text is kept in its HASH
-- ARGV[i+3] retention in ms   ARGV[i+4] unit
-- ARGV[i+5] how many of each follow: '<dead letters> <ids> <scheduled> <messages> <identities> <entries>', and after a
--     space the field of the tally that counts one more, if any; '' for nothing of all that, '1' for one entry only
-- ARGV[i+6..] dead letters: id, JSON, group ('' for a letter that is not added to the index), text about the group,
--     subjects, see cabinet.lua; schedule ids to remove; scheduled: id, delay in ms, message; identities of events
--     that took part in a join with rounds, and if there are any, before them the retention of the inbox in ms;
--     entries of the record of runs: the end of the STREAM's name, with '!' if it is to be tended, and the text; then the messages, which only
--     commit_fused.lua reads

-- Returns how many dead letters, ids to remove, scheduled entries and messages follow, where the messages begin, and
-- how many identities and entries of the record follow; and the field of the tally, or ''.
local function shape(i)
  if ARGV[i + 5] == '' then return 0, 0, 0, 0, i + 6, 0, 0, '' end
  if ARGV[i + 5] == '1' then return 0, 0, 0, 0, i + 8, 0, 1, '' end
  local letters, unwanted, scheduled, messages, took_part, entries, counted =
    string.match(ARGV[i + 5], '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) ?(.*)$')
  local before = i + 6 + 5 * letters + unwanted + 3 * scheduled + 2 * entries
  took_part = tonumber(took_part)
  return tonumber(letters), tonumber(unwanted), tonumber(scheduled), tonumber(messages),
    before + (took_part > 0 and took_part + 1 or 0), took_part, tonumber(entries), counted
end

-- Appends entries to the record of runs. Nothing depends on it, so an error of Redis (a key of the wrong type, a user
-- without the right) is ignored. The lifetime is renewed, and old entries are removed, where the name says so.
local most, lifetime
local function record(at, entries, now)
  if not most then most, lifetime = string.match(ARGV[2], '^(%d+) (%d+)$') end
  for n = at, at + 2 * entries - 2, 2 do
    local tend = string.byte(ARGV[n], -1) == 33
    local stream = ARGV[1] .. (tend and string.sub(ARGV[n], 1, -2) or ARGV[n])
    local id = redis.pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', most, '*', '', ARGV[n + 1])
    if not id then redis.pcall('XADD', stream, '*', '', ARGV[n + 1]) end
    if not id or tend then
      redis.pcall('PEXPIRE', stream, lifetime)
      redis.pcall('XTRIM', stream, 'MINID', string.format('%.0f', now - lifetime))
    end
  end
end

-- Adds entries to the schedule, whose arguments begin at ARGV[at]. Returns where the next arguments begin.
local function put_scheduled(at, scheduled, now)
  for _ = 1, scheduled do
    redis.call('ZADD', KEYS[1], 'NX', now + ARGV[at + 1], ARGV[at])
    redis.call('HSETNX', KEYS[2], ARGV[at], ARGV[at + 2])
    at = at + 3
  end
  return at
end

local function settle(i)
  local now, token, unit = now_ms(), ARGV[i], ARGV[i + 4]
  local key, parts = ARGV[1] .. 'unit:' .. unit, ARGV[1] .. 'parts:' .. unit
  local retention, place = tonumber(ARGV[i + 3]), ARGV[i + 2] == '2' and inbox_place(unit)
  local letters, unwanted, scheduled, _, _, took_part, entries, counted = shape(i)

  local attempt, signal = string.match(ARGV[i + 1], '^(%d+)(.*)$')
  local field = 'settled' .. signal
  attempt = tonumber(attempt)
  local state = redis.call('HMGET', key, 'done', 'token', field)
  if state[1] then return 'already' end
  if state[2] ~= token then
    if inbox_has(KEYS[5], place or inbox_place(unit), retention, now) then return 'already' end
    return (state[2] or (attempt > 0 and tonumber(state[3] or 0) >= attempt)) and 'stale' or 'lost'
  end

  -- A key of the wrong type ends the script with an error. So the unit is settled last: if that happens, the unit runs
  -- again, and the earlier writes are repeated.
  local at = i + 6
  for _ = 1, letters do
    redis.call('HSET', KEYS[3], ARGV[at], ARGV[at + 1])
    redis.call('ZADD', KEYS[4], now, ARGV[at])
    if ARGV[at + 2] ~= '' then
      file_letter(ARGV[1], ARGV[at], now, ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
    end
    at = at + 5
  end
  for _ = 1, unwanted do
    redis.call('ZREM', KEYS[1], ARGV[at])
    redis.call('HDEL', KEYS[2], ARGV[at])
    at = at + 1
  end
  at = put_scheduled(at, scheduled, now)
  for n = 1, took_part do inbox_add(KEYS[5], inbox_round(ARGV[at + n]), tonumber(ARGV[at]), now) end
  at = at + (took_part > 0 and took_part + 1 or 0)

  if counted ~= '' then redis.call('HINCRBY', ARGV[1] .. 'tally', counted, 1) end

  if ARGV[i + 2] == '0' then
    redis.call('HDEL', key, 'token', 'until', 'inflight', 'deliveries', 'ended', 'before')
    if attempt > tonumber(state[3] or 0) then redis.call('HSET', key, field, attempt) end
    redis.call('PEXPIRE', key, retention)
  elseif place then
    inbox_add(KEYS[5], place, retention, now)
    redis.call('DEL', key, parts)
  else
    redis.call('DEL', key, parts)
    redis.call('HSET', key, 'done', ARGV[i + 2])
    redis.call('PEXPIRE', key, retention)
  end
  if entries > 0 then record(at, entries, now) end
  return 'ok'
end

