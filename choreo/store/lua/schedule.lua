-- Keep a message for later. The same id is scheduled once.
--
-- KEYS[1] due            ZSET schedule id -> time in ms   KEYS[2] messages   HASH schedule id -> message
-- ARGV[1] schedule id    ARGV[2] delay in ms   ARGV[3] message
-- Returns: 1 if it is new, 0 if this id is scheduled already
--!include redis_client/now

local now = now_ms()
redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[3])
return redis.call('ZADD', KEYS[1], 'NX', now + ARGV[2], ARGV[1])
