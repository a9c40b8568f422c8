-- Shared function, for `--!include broker/redis/wake`: wake a consumer.
--
-- wake(token): put a wake-up token into the list, unless there is one. A consumer that blocks on the list wakes up.
-- KEYS/ARGV: none of its own. The caller passes the list's key.
--
-- token   list, at most one element, for an hour. A lost element costs a waiting consumer a second, not a message.
local function wake(token)
  if redis.call('EXISTS', token) == 0 then
    redis.call('LPUSH', token, '1')
    redis.call('EXPIRE', token, 3600)
  end
end
