-- Find the entry of a schedule that has a mark: a part of the schedule at a time.
--
-- KEYS[1] due            ZSET schedule id -> time in ms, see due.lua   KEYS[2] messages   HASH schedule id -> message
-- ARGV[1] name of the schedule   ARGV[2] mark: the beginning of the SHA-1 of the name, a slash, and the schedule id
-- ARGV[3] the place at which to begin, from 0   ARGV[4] how many entries to look at
-- Returns: {how many entries were looked at}, and if it is found: schedule id, time, message or '' for none

local page = redis.call('ZRANGE', KEYS[1], ARGV[3], ARGV[3] + ARGV[4] - 1)
for _, id in ipairs(page) do
  if string.sub(redis.sha1hex(ARGV[1] .. '/' .. id), 1, #ARGV[2]) == ARGV[2] then
    return {#page, id, redis.call('ZSCORE', KEYS[1], id), redis.call('HGET', KEYS[2], id) or ''}
  end
end
return {#page}
