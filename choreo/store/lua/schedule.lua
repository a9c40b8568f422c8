-- Keep a message for later. The same id is scheduled once.
--
-- KEYS 1 due            ZSET schedule id -> time in ms        2 post   HASH schedule id -> message
-- ARGV 1 schedule id    2 delay in ms   3 message
-- Returns               1 if it is new, 0 if this id is scheduled already

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[3])
return redis.call('ZADD', KEYS[1], 'NX', now + ARGV[2], ARGV[1])
