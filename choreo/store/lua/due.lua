-- Hand out the messages that are due, and hold them back from other workers for a while.
--
-- KEYS[1] due            ZSET schedule id -> time in ms at which the message is due. With a fraction of 0.5 once it was
--     handed out. Negative for a deadline that was sent: it stays until its join is settled
-- KEYS[2] messages       HASH schedule id -> message; a join's deadline has none
-- ARGV[1] most messages  ARGV[2] ms for which they are held back
-- Returns: schedule id, message or '' for a deadline; repeated
--!include redis_client/now

local now = now_ms()
local answer = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], 0, now + 0.5, 'LIMIT', 0, ARGV[1])) do
  local message = redis.call('HGET', KEYS[2], id)
  if message or string.sub(id, 1, 9) == 'deadline:' then
    -- The fraction tells unschedule.lua that a worker may be sending the message.
    redis.call('ZADD', KEYS[1], string.format('%.1f', now + ARGV[2] + 0.5), id)
    answer[#answer + 1] = id
    answer[#answer + 1] = message or ''
  else
    -- The message is gone (an evicted key), so its entry would be due for ever.
    redis.call('ZREM', KEYS[1], id)
  end
end
return answer
