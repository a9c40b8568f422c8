-- Shared function, for `--!include redis_client/now`: the server's time.
--
-- now_ms(): ms since 1970, the same throughout one call of a script.
-- KEYS/ARGV: none.
-- Returns: see the function.
local clock
local function now_ms()
  if not clock then
    local time = redis.call('TIME')
    clock = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock
end
