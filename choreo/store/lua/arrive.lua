-- Record one part of a join, and claim the join if it is complete.
--
-- KEYS 1 unit           HASH, see lease.lua
--      2 parts          HASH, until the join is settled:
--                       part's name -> time of its arrival in ms, a space, its text
--                       '#type' -> how many have arrived, for a type of which several are needed
--                       '?type' -> how many of the type are needed, if another part said so
--      3 due            ZSET schedule id -> time in ms, see due.lua
--      4 tally          HASH, permanent: 'late' | 'duplicate' | 'surplus' -> how many events did not count
-- ARGV 1 attempt        2 token   3 lease in ms   4 most deliveries   5 retention in ms
--      6 part's type    7 part's name   8 its text
--      9 ms until the deadline   10 schedule id of the deadline   11 how many types make the join complete
--      12 in flight, see lease.lua   13 '1' if the claim is made ahead, see lease.lua
--      14 '1' if the copy was delivered before: then it counts neither as a duplicate nor as late
--      15 t, how many types this part asks for; then t times: type, how many
--      then for each needed type: the type, and how many ('' for one, 0 for as many as another part asks for)
-- Returns               {'wait', how many parts have arrived}, or an answer of lease.lua
--!include store/lease

local unit, parts, due, tally = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local own, name, text = ARGV[6], ARGV[7], ARGV[8]
local first_need = 16 + 2 * ARGV[15]
local first_time = ARGV[14] ~= '1'

if redis.call('HEXISTS', unit, 'done') == 1 then
  if first_time then
    redis.call('HINCRBY', unit, 'late', 1)
    redis.call('HINCRBY', tally, 'late', 1)
  end
  return {'done'}
end

-- Returns how many events have arrived; true if the join is complete; true if this part's type has all it needs.
local function count()
  local here, full, own_is_full = 0, 0, false
  for i = first_need, #ARGV, 2 do
    local part, need, have = ARGV[i], 1, 0
    if ARGV[i + 1] == '' then
      have = redis.call('HEXISTS', parts, part)
    else
      have = tonumber(redis.call('HGET', parts, '#' .. part) or 0)
      need = tonumber(ARGV[i + 1])
      if need == 0 then need = tonumber(redis.call('HGET', parts, '?' .. part) or math.huge) end
    end
    here = here + have
    if have >= need then
      full = full + 1
      own_is_full = own_is_full or part == own
    end
  end
  return here, full >= tonumber(ARGV[11]), own_is_full
end

local known = redis.call('HGET', parts, name)
local here, complete, own_is_full = count()

-- A part that has arrived before claims the join all the same: the worker that claimed it may have died.
-- A new part comes too late for a complete join, since all attempts must see the same parts.
if not known and complete then
  if first_time then redis.call('HINCRBY', tally, 'late', 1) end
  return {'done'}
end

local now = now_ms()
redis.call('ZADD', due, 'NX', now + ARGV[9], ARGV[10])

if not known and own_is_full then
  redis.call('HINCRBY', tally, 'surplus', 1)
elseif not known then
  redis.call('HSET', parts, name, string.format('%.0f ', now) .. text)
  if name ~= own then redis.call('HINCRBY', parts, '#' .. own, 1) end
  for i = 16, first_need - 1, 2 do redis.call('HSETNX', parts, '?' .. ARGV[i], ARGV[i + 1]) end
  here, complete = count()
elseif not complete and tonumber(ARGV[1]) <= 1 and first_time then
  local same = string.match(known, '^%d+ (.*)$') == text
  redis.call('HINCRBY', tally, same and 'duplicate' or 'surplus', 1)
end

if not complete then return {'wait', here} end
local lease, most, retention = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
return claim(unit, parts, ARGV[1], ARGV[2], lease, most, retention, ARGV[12], ARGV[13] == '1')
