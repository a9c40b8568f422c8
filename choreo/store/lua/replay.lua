-- Replay a dead letter: remove it, and schedule its message for the handler that failed.
--
-- KEYS[1] unit           HASH, see claim_unit.lua; it is deleted   KEYS[2] parts   HASH, see arrive.lua
-- KEYS[3] due            ZSET schedule id -> time in ms   KEYS[4] messages   HASH schedule id -> message
-- KEYS[5] letters        HASH dead letter id -> JSON   KEYS[6] index  ZSET dead letter id -> time in ms
-- KEYS[7] done           start of the names of the inbox's HASHes: see redis_client/lua/inbox.lua
-- ARGV[1] dead letter id   ARGV[2] schedule id   ARGV[3] delay in ms   ARGV[4] message   ARGV[5] retention in ms
-- ARGV[6] the unit's id in the inbox; '' for a join
--     then a part's name and its text, or '?type' and how many of the type are needed; repeated
-- Returns: 1 if replayed, 0 if there is no such letter, or other parts wait for the unit
--!include redis_client/inbox
--!include redis_client/now

if redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
if redis.call('HDEL', KEYS[5], ARGV[1]) == 0 then return 0 end
local now = now_ms()
redis.call('ZREM', KEYS[6], ARGV[1])
redis.call('DEL', KEYS[1])
if ARGV[6] ~= '' then inbox_remove(KEYS[7], inbox_place(ARGV[6]), tonumber(ARGV[5]), now) end
for i = 7, #ARGV, 2 do
  local name, text = ARGV[i], ARGV[i + 1]
  if string.sub(name, 1, 1) == '?' then
    redis.call('HSET', KEYS[2], name, text)
  elseif redis.call('HSETNX', KEYS[2], name, string.format('%.0f ', now) .. text) == 1 then
    local several = string.match(name, '^([^/]+)/')
    if several then redis.call('HINCRBY', KEYS[2], '#' .. several, 1) end
  end
end
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[2])
redis.call('HSET', KEYS[4], ARGV[2], ARGV[4])
return 1
