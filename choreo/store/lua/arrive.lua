-- Record one part of a join, and claim the join if it is complete.
--
-- KEYS[1] unit           HASH, see claim_unit.lua
-- KEYS[2] parts          HASH, until the join is settled:
--     part's name -> time of its arrival in ms, a space, its text
--     '#type' -> how many of the type have arrived under names 'type/identity'
--     '?type' -> how many of the type are needed, if another part said so
-- KEYS[3] due            ZSET schedule id -> time in ms, see due.lua
-- KEYS[4] tally          HASH, permanent: 'late' | 'duplicate' | 'surplus' -> how many events did not count
-- KEYS[5] done           start of the names of the inbox's HASHes: see redis_client/lua/inbox.lua
-- ARGV[1] attempt        ARGV[2] token   ARGV[3] lease in ms   ARGV[4] most deliveries   ARGV[5] retention in ms
-- ARGV[6] part's type    ARGV[7] part's name   ARGV[8] its text
-- ARGV[9] ms until the deadline   ARGV[10] schedule id of the deadline   ARGV[11] how many types make the join complete
-- ARGV[12] in flight, see claim_unit.lua
-- ARGV[13] '1' if the claim is made ahead, see claim_unit.lua
-- ARGV[14] '1' if the copy was delivered before: then it counts neither as a duplicate nor as late
-- ARGV[15] the event's identity for a join with rounds; '' for any other join
-- ARGV[16] t, how many types this part asks for; then t times: type, how many
--     then for each needed type: the type, and how many ('' for one, 0 for as many as another part asks for)
-- Returns: {'wait', how many parts have arrived, 'surplus' or ''}, {'done', see ClaimResult.note}, or an answer of
--     claim_unit.lua
--!include redis_client/inbox
--!include redis_client/now
--!include store/claim_unit

local unit, parts, due, tally = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local own, name, text = ARGV[6], ARGV[7], ARGV[8]
local lease, most, retention = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local identity, first_count = ARGV[15], 17
local first_need = first_count + 2 * ARGV[16]
local first_time, enough = ARGV[14] ~= '1', tonumber(ARGV[11])

local state = redis.call('HMGET', unit, 'done', 'settled', 'token')

local function is_same(stamped) return string.match(stamped, '^%d+ (.*)$') == text end

-- Returns the part of this name; or the same event under the name that another declaration gave it.
local function find()
  local found = redis.call('HMGET', parts, name, name == own and '#' .. own or own)
  if found[1] or not found[2] then return found[1] end
  if name ~= own then return is_same(found[2]) and found[2] end
  local all = redis.call('HGETALL', parts)
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, #own + 1) == own .. '/' and is_same(all[i + 1]) then return all[i + 1] end
  end
end

-- Returns the answer for an event whose join is settled; nil if it begins the join, or its next round.
local function answer_of_settled()
  if identity == '' then
    if state[1] and first_time then
      redis.call('HINCRBY', unit, 'late', 1)
      redis.call('HINCRBY', tally, 'late', 1)
    end
    return state[1] and {'done', state[1]}
  end
  local took_part = inbox_has(KEYS[5], inbox_round(identity), retention, now_ms())
  -- The note of a join that was settled by a version of the service without rounds names its parts.
  local mark = string.sub(redis.sha1hex(identity), 1, 8)
  -- A replayed round has its parts again, and they are remembered all the same.
  if (took_part and not find()) or (state[1] and string.find(state[1], mark, 1, true)) then return {'done', ''} end
  if state[1] then
    redis.call('DEL', unit)
    state = {}
  end
end

-- Returns how many events have arrived; how many types have all they need; and how many events of this part's type
-- are missing, nil if it needs none.
local function count()
  local here, full, own_missing = 0, 0, nil
  for i = first_need, #ARGV, 2 do
    local part, need = ARGV[i], 1
    local found = redis.call('HMGET', parts, part, '#' .. part)
    local have = (found[1] and 1 or 0) + (found[2] or 0)
    if ARGV[i + 1] ~= '' then
      need = tonumber(ARGV[i + 1])
      if need == 0 then need = tonumber(redis.call('HGET', parts, '?' .. part) or math.huge) end
    end
    here = here + have
    if have >= need then full = full + 1 end
    if part == own then own_missing = need - have end
  end
  return here, full, own_missing
end

-- Returns the answer for a new event whose join is complete: it comes too late, since all attempts must see the same
-- parts.
local function answer_of_complete()
  -- It is complete by a new declaration only: no part has claimed it, and at its deadline it runs.
  if not state[2] and not state[3] then redis.call('ZADD', due, 'XX', now_ms(), ARGV[10]) end
  if identity ~= '' then return {'busy', lease} end
  if first_time then redis.call('HINCRBY', tally, 'late', 1) end
  return {'done', 'complete'}
end

-- Counts an event that is no new part. Returns true if it is surplus: the join has enough of its type.
local function tally_surplus(known, full, own_missing)
  if not known then
    local is_surplus = own_missing and own_missing <= 0
    if is_surplus then redis.call('HINCRBY', tally, 'surplus', 1) end
    return is_surplus
  end
  if full >= enough or tonumber(ARGV[1]) > 1 or not first_time then return false end
  local is_surplus = not is_same(known)
  redis.call('HINCRBY', tally, is_surplus and 'surplus' or 'duplicate', 1)
  return is_surplus
end

-- Records a part, and how many others it asks for. Returns the first two numbers of `count`, as they are now.
local function record(known, here, full, own_missing)
  if not known then
    redis.call('HSET', parts, name, string.format('%.0f ', now_ms()) .. text)
    if name ~= own then redis.call('HINCRBY', parts, '#' .. own, 1) end
    if own_missing then here = here + 1 end
    if own_missing == 1 then full = full + 1 end
  end
  -- Also for a part that was there: a new declaration may ask it for another number.
  for i = first_count, first_need - 1, 2 do redis.call('HSET', parts, '?' .. ARGV[i], ARGV[i + 1]) end
  if first_need > first_count then here, full = count() end
  return here, full
end

-- Returns the answer for an event whose join is not complete.
local function answer_of_incomplete(known, here, is_surplus)
  -- It was complete by another declaration, and has failed. It waits again, and its attempts begin anew.
  if state[2] then redis.call('HDEL', unit, 'settled') end
  -- Then its deadline may have passed without an effect.
  if (known or state[2]) and tonumber(redis.call('ZSCORE', due, ARGV[10])) < 0 then
    redis.call('ZADD', due, 'XX', now_ms(), ARGV[10])
  end
  return {'wait', here, is_surplus and 'surplus' or ''}
end

local settled = answer_of_settled()
if settled then return settled end

local known = find()
local here, full, own_missing = count()
-- A part that has arrived before claims the join all the same: the worker that claimed it may have died.
if not known and full >= enough then return answer_of_complete() end

redis.call('ZADD', due, 'NX', now_ms() + ARGV[9], ARGV[10])
if identity ~= '' and not known and own_missing and own_missing <= 0 then return {'busy', lease} end

local is_surplus = tally_surplus(known, full, own_missing)
if not is_surplus then here, full = record(known, here, full, own_missing) end
if full < enough then return answer_of_incomplete(known, here, is_surplus) end

local answer = claim(unit, parts, ARGV[1], ARGV[2], lease, most, retention, ARGV[12], ARGV[13] == '1')
-- Another event in the place of a part, after a failed attempt.
if answer[1] == 'done' and known and not is_same(known) then return {'done', 'complete'} end
return answer
