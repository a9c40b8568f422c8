-- Pause a handler, change its pause, or end it.
--
-- KEYS[1] pause          STRING: ms of its begin, a space, ms of its end (0: none), a space, JSON; it expires at its end
-- KEYS[2] due            ZSET, see due.lua   KEYS[3] messages   HASH schedule id -> message
-- ARGV[1] the text that must be there: '*' for any, '' for none; else nothing is done
-- ARGV[2] JSON; '' to end the pause              ARGV[3] ms of its begin; 0: now
-- ARGV[4] ms for which it lasts from now; 0: until it is ended
-- ARGV[5] number of schedule ids to remove; then these ids
--     then schedule id, delay in ms and message of what is scheduled; repeated
-- Returns: {1 if it was done or else 0, the text that was there or '', the text that is there now or ''}
--!include redis_client/now

local before = redis.pcall('GET', KEYS[1]) or ''
-- A key of the wrong type is a pause that cannot be read, and can be replaced and ended.
if type(before) == 'table' then before = before.err end
if ARGV[1] ~= '*' and ARGV[1] ~= before then return {0, before, before} end
local after = ''
if ARGV[2] == '' then
  if before == '' then return {0, '', ''} end
  redis.call('DEL', KEYS[1])
else
  local lasts, since, until_ms = tonumber(ARGV[4]), tonumber(ARGV[3]), 0
  if since == 0 then since = now_ms() end
  if lasts > 0 then until_ms = now_ms() + lasts end
  after = string.format('%.0f %.0f ', since, until_ms) .. ARGV[2]
  redis.call('SET', KEYS[1], after)
  if lasts > 0 then redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', until_ms)) end
end
local first = 6 + tonumber(ARGV[5])
for i = 6, first - 1 do
  local score = tonumber(redis.call('ZSCORE', KEYS[2], ARGV[i]))
  -- As in unschedule.lua: one that a worker may be sending stays.
  if score and score >= 0 and score % 1 == 0 then
    redis.call('ZREM', KEYS[2], ARGV[i])
    redis.call('HDEL', KEYS[3], ARGV[i])
  end
end
for i = first, #ARGV, 3 do
  redis.call('HSETNX', KEYS[3], ARGV[i], ARGV[i + 2])
  redis.call('ZADD', KEYS[2], 'NX', now_ms() + ARGV[i + 1], ARGV[i])
end
return {1, before, after}
