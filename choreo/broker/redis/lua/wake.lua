-- Shared function, for `--!include broker/redis/wake`: wake a consumer.
--
-- wake(mark): put a wake-up mark into the list, unless there is one. A consumer that blocks on the list wakes up.
-- KEYS/ARGV: none of its own. The caller passes the list's key.
--
-- mark   list, at most one element, for an hour. A lost element costs a waiting consumer a second, not a message.
local function wake(mark)
  if redis.call('EXISTS', mark) == 0 then
    redis.call('LPUSH', mark, '1')
    redis.call('EXPIRE', mark, 3600)
  end
end
