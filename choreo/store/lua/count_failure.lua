-- Count one more failure in a row of a handler.
--
-- KEYS[1] failing        HASH, for ARGV[4]: total -> all failures in the row; since -> ms of the first one;
--                        'kind ' .. kind -> the failures of this kind
-- ARGV[1] 'kind ' .. kind                                ARGV[2] '1' to begin a new row, else '0'
-- ARGV[3] the most kinds that are counted one by one     ARGV[4] ms after which the row is forgotten
-- Returns: {failures of this kind, of all kinds, ms of the first}
--!include redis_client/now

local key, kind = KEYS[1], ARGV[1]
if ARGV[2] == '1' then redis.call('DEL', key) end
redis.call('HSETNX', key, 'since', string.format('%.0f', now_ms()))
local total = redis.call('HINCRBY', key, 'total', 1)
local of_kind = 1
if redis.call('HEXISTS', key, kind) == 1 or redis.call('HLEN', key) - 2 < tonumber(ARGV[3]) then
  of_kind = redis.call('HINCRBY', key, kind, 1)
end
redis.call('PEXPIRE', key, ARGV[4])
return {of_kind, total, redis.call('HGET', key, 'since')}
