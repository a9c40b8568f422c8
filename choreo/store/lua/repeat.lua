-- Let a finished unit run once more: forget that it is finished, and schedule its message.
--
-- KEYS[1] unit           HASH, see claim_unit.lua; it is deleted   KEYS[2] parts   HASH, see arrive.lua
-- KEYS[3] due            ZSET schedule id -> time in ms   KEYS[4] messages   HASH schedule id -> message
-- KEYS[5] done           start of the names of the inbox's HASHes: see redis_client/lua/inbox.lua
-- ARGV[1] schedule id    ARGV[2] delay in ms   ARGV[3] message   ARGV[4] retention in ms
-- ARGV[5] the unit's id in the inbox; '' for a join
--     then a part's name and its text, or '?type' and how many of the type are needed; repeated
-- Returns: 'repeated' | 'begun' (it is not finished) | 'waiting' (it is a join that waits for parts)
--!include redis_client/inbox
--!include redis_client/now
--!include store/restore

if redis.call('EXISTS', KEYS[2]) == 1 then return 'waiting' end
local state = redis.call('HMGET', KEYS[1], 'done', 'token', 'settled')
if not state[1] and (state[2] or state[3]) then return 'begun' end
local now = now_ms()
redis.call('DEL', KEYS[1])
if ARGV[5] ~= '' then inbox_remove(KEYS[5], inbox_place(ARGV[5]), tonumber(ARGV[4]), now) end
restore(KEYS[2], 6, #ARGV, now)
redis.call('ZADD', KEYS[3], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[4], ARGV[1], ARGV[3])
return 'repeated'
