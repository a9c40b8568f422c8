-- Shared function, put in front of a script by `--!include wake`.
--
-- wake(token): make sure that one token waits for a consumer that blocks on it.
-- KEYS/ARGV: none of its own; the caller hands over the token's key.
--
-- token   list, at most one element, kept for an hour: losing it costs a waiting consumer a second, not a message.
local function wake(token)
  if redis.call('EXISTS', token) == 0 then
    redis.call('LPUSH', token, '1')
    redis.call('EXPIRE', token, 3600)
  end
end
