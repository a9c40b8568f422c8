-- Remove a scheduled message that was not handed out yet.
--
-- KEYS[1] due            ZSET, see due.lua   KEYS[2] messages   HASH schedule id -> message
-- ARGV[1] schedule id
-- Returns: 1 if it was removed, 0 if there is none or a worker may be sending it

local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]))
-- A negative score is that of a join's deadline which was sent.
if not score or score < 0 or score % 1 ~= 0 then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return 1
