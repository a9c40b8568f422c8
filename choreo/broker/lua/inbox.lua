-- Shared functions, put in front of a script by `--!include inbox`: what a handler has done for good.
--
-- inbox_place(unit): where a unit is remembered: {bucket number, field}.
-- inbox_has(prefix, place, retention, ms): whether it was done within the last `retention` ms.
-- inbox_add(prefix, place, retention, ms), inbox_remove(prefix, place, retention, ms).
-- KEYS/ARGV: none of their own; the caller hands over the start of the buckets' names.
-- Returns: see above.
--
-- prefix .. slot .. ':' .. bucket   hash: 16 bytes of a unit's id -> ''. One for each slot of time (a third of the
--     retention) and each of 16384 parts of all ids, so that a million units in a slot make hashes of 60 fields: Redis
--     keeps those as listpacks, at some 25 bytes a unit instead of the 200 of a key. A bucket lives until its youngest
--     unit was kept for the retention: all are kept for that time, and for a slot more at most.
local INBOX_SLOTS = 3

local function inbox_place(unit)
  local hex
  if #unit == 36 and unit == string.lower(unit) and
      string.find(unit, '^%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$') then
    hex = string.gsub(unit, '-', '')
  else
    hex = redis.sha1hex(unit)
  end
  local a, d = tonumber(string.sub(hex, 1, 8), 16), tonumber(string.sub(hex, 25, 32), 16)
  local b, c = tonumber(string.sub(hex, 9, 16), 16), tonumber(string.sub(hex, 17, 24), 16)
  -- Every kind of UUID has something in one of these two places that changes from one to the next.
  return {bit.bxor(a % 16384, d % 16384), struct.pack('>I4I4I4I4', a, b, c, d)}
end

local function inbox_slot(retention, ms)
  local width = math.ceil(retention / INBOX_SLOTS)
  return math.floor(ms / width), width
end

local function inbox_has(prefix, place, retention, ms)
  local slot = inbox_slot(retention, ms)
  for back = 0, INBOX_SLOTS do
    if redis.call('HEXISTS', string.format('%s%.0f:%x', prefix, slot - back, place[1]), place[2]) == 1 then
      return true
    end
  end
  return false
end

local function inbox_add(prefix, place, retention, ms)
  local slot, width = inbox_slot(retention, ms)
  local key = string.format('%s%.0f:%x', prefix, slot, place[1])
  redis.call('HSET', key, place[2], '')
  if redis.call('HLEN', key) == 1 then
    redis.call('PEXPIREAT', key, string.format('%.0f', (slot + 1) * width + retention))
  end
end

local function inbox_remove(prefix, place, retention, ms)
  local slot = inbox_slot(retention, ms)
  for back = 0, INBOX_SLOTS do
    redis.call('HDEL', string.format('%s%.0f:%x', prefix, slot - back, place[1]), place[2])
  end
end
