-- Replay dead letters: remove each, and schedule its message for the handler that failed.
--
-- KEYS[1] due            ZSET schedule id -> time in ms   KEYS[2] messages   HASH schedule id -> message
-- KEYS[3] letters        HASH dead letter id -> JSON   KEYS[4] index  ZSET dead letter id -> time in ms
-- KEYS[5] done           start of the names of the inbox's HASHes: see redis_client/lua/inbox.lua
-- (The script also uses the keys of cabinet.lua, and of each unit, in the same slot of a cluster:
--     ARGV[1] .. 'unit:' .. unit    HASH, see claim_unit.lua; it is deleted
--     ARGV[1] .. 'parts:' .. unit   HASH, see arrive.lua)
-- ARGV[1] start of the names of the handler's keys   ARGV[2] retention in ms
-- ARGV[3..] letters, one after the other: dead letter id, schedule id, delay in ms, message, unit, the unit's id in the
--     inbox ('' for a join, or none), how many parts follow; then each part's name and its text, or '?type' and how many
--     of the type are needed
-- Returns: for each letter 1 if it is replayed, 0 if there is no such letter, or other parts wait for the unit
--!include redis_client/inbox
--!include redis_client/now
--!include store/cabinet
--!include store/restore

local now = now_ms()

local function replay(i, last)
  local id, unit = ARGV[i], ARGV[i + 4]
  local parts = ARGV[1] .. 'parts:' .. unit
  if redis.call('EXISTS', parts) == 1 or redis.call('HDEL', KEYS[3], id) == 0 then return 0 end
  redis.call('ZREM', KEYS[4], id)
  forget_letter(ARGV[1], id)
  redis.call('DEL', ARGV[1] .. 'unit:' .. unit)
  if ARGV[i + 5] ~= '' then inbox_remove(KEYS[5], inbox_place(ARGV[i + 5]), tonumber(ARGV[2]), now) end
  restore(parts, i + 7, last, now)
  redis.call('ZADD', KEYS[1], now + ARGV[i + 2], ARGV[i + 1])
  redis.call('HSET', KEYS[2], ARGV[i + 1], ARGV[i + 3])
  return 1
end

local answers, i = {}, 3
while i <= #ARGV do
  local last = i + 6 + 2 * ARGV[i + 6]
  answers[#answers + 1], i = replay(i, last), last + 1
end
return answers
