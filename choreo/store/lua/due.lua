-- Hand out what is due, and hold it back from others for a while.
--
-- KEYS 1 due            ZSET schedule id -> when it is due in ms; with a fraction once it was handed out;
--                       negative for a join that was reminded of its deadline, which stays until it is settled
--      2 post           HASH schedule id -> message; a join's deadline has none
-- ARGV 1 most messages  2 how long to hold them back, in ms
-- Returns               schedule id, message or '' for a deadline; repeated

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, now + 0.5, 'LIMIT', 0, ARGV[1])) do
  local message = redis.call('HGET', KEYS[2], id)
  if message or string.sub(id, 1, 9) == 'deadline:' then
    -- The fraction tells unschedule.lua that somebody may be sending it.
    redis.call('ZADD', KEYS[1], string.format('%.1f', now + ARGV[2] + 0.5), id)
    answer[#answer + 1] = id
    answer[#answer + 1] = message or ''
  else
    -- Its message is gone (an evicted key): without this it would be due for ever.
    redis.call('ZREM', KEYS[1], id)
  end
end
return answer
