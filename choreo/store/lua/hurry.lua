-- Let an entry of the schedule fall due now.
--
-- KEYS[1] due            ZSET schedule id -> time in ms, see due.lua
-- ARGV[1] schedule id
-- Returns: 'now' | 'due' (it was due already) | 'leaving' (a worker may be sending it) | 'gone' (there is none, or it is
--     a deadline that was sent)
--!include redis_client/now

local time = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '-1')
if time < 0 then return 'gone' end
if time % 1 ~= 0 then return 'leaving' end
local now = now_ms()
if time <= now then return 'due' end
redis.call('ZADD', KEYS[1], 'XX', now, ARGV[1])
return 'now'
