-- Shared functions, for `--!include redis_client/inbox`: a handler's inbox, the memory of its finished units.
--
-- inbox_place(unit): the place of a unit in the inbox: {bucket, field, true if the unit is a UUID}.
-- inbox_round(identity): the place of an event that took part in a round of a join. It is the place of no unit: the join
--     may become a handler whose units are the events.
-- inbox_has(prefix, place, retention, ms): true if the unit was added within the last `retention` ms.
-- inbox_add(prefix, place, retention, ms), inbox_remove(prefix, place, retention, ms): add or remove the unit.
-- KEYS/ARGV: none of their own. prefix: the start of the hashes' names. retention: in ms. ms: the server's time.
-- Returns: see each function; inbox_add and inbox_remove return nothing.
--
-- prefix .. slot .. ':' .. bucket   hash: 16 bytes of a unit's id -> ''. There is one for each slot of time (a third of
--     the retention) and each of 16384 buckets. A million units in a slot make hashes of 60 fields. Redis keeps them as
--     listpacks, with about 25 bytes per unit; a key per unit would take 200. A hash expires one retention after the
--     end of its slot. So each unit is kept for the retention, and for one slot longer at most.
local INBOX_SLOTS = 3

local INBOX_UUID = '^(%x%x%x%x%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x)%-(%x%x%x%x)(%x%x%x%x%x%x%x%x)$'

local function inbox_place(unit)
  local a, b, b_end, c, c_end, d = string.match(unit, INBOX_UUID)
  local is_uuid = a and not string.find(unit, '%u')
  if is_uuid then
    b, c = b .. b_end, c .. c_end
  else
    local hex = redis.sha1hex(unit)
    a, b, c, d = string.sub(hex, 1, 8), string.sub(hex, 9, 16), string.sub(hex, 17, 24), string.sub(hex, 25, 32)
  end
  a, b, c, d = tonumber(a, 16), tonumber(b, 16), tonumber(c, 16), tonumber(d, 16)
  -- Every version of UUID has changing digits in at least one of these two places.
  return {string.format('%x', bit.bxor(a % 16384, d % 16384)), struct.pack('>I4I4I4I4', a, b, c, d), is_uuid}
end

local function inbox_round(identity) return inbox_place('round:' .. identity) end

local function inbox_slot(retention, ms)
  local width = math.ceil(retention / INBOX_SLOTS)
  return math.floor(ms / width), width
end

-- The starts of the names of the hashes that may hold units, newest slot first. Computed once per call and prefix.
local inbox_known = {}
local function inbox_starts(prefix, retention, ms)
  local starts = inbox_known[prefix]
  if not starts then
    local slot = inbox_slot(retention, ms)
    starts = {}
    for back = 0, INBOX_SLOTS do starts[back + 1] = prefix .. slot - back .. ':' end
    inbox_known[prefix] = starts
  end
  return starts
end

local function inbox_has(prefix, place, retention, ms)
  for _, start in ipairs(inbox_starts(prefix, retention, ms)) do
    if redis.call('HEXISTS', start .. place[1], place[2]) == 1 then return true end
  end
  return false
end

local function inbox_add(prefix, place, retention, ms)
  local slot, width = inbox_slot(retention, ms)
  local key = string.format('%s%.0f:%s', prefix, slot, place[1])
  redis.call('HSET', key, place[2], '')
  if redis.call('HLEN', key) == 1 then
    redis.call('PEXPIREAT', key, string.format('%.0f', (slot + 1) * width + retention))
  end
end

local function inbox_remove(prefix, place, retention, ms)
  for _, start in ipairs(inbox_starts(prefix, retention, ms)) do redis.call('HDEL', start .. place[1], place[2]) end
end
