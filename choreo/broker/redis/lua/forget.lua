-- Remove every binding of a queue that is being deleted, so that no event fills a list without a reader.
--
-- KEYS[1] bound       hash, permanent: see bind.lua      KEYS[2] exchanges   hash, permanent: exchange -> its type
-- KEYS[3] wake-up mark   list, for an hour: see wake.lua
-- (The script finds each exchange's bindings, permanent bindings and routes itself: they are named prefix .. exchange.)
-- ARGV[1] queue       ARGV[2] separator
-- ARGV[3..5] key prefixes of bindings, permanent bindings and routes
-- ARGV[6] a new epoch, used if bindings were lost before: see bind.lua
-- Returns: the number of bindings removed.
local removed, ending = 0, ARGV[2] .. ARGV[1]
redis.call('DEL', KEYS[3])
for _, exchange in ipairs(redis.call('HKEYS', KEYS[2])) do
  local bindings, gone = ARGV[3] .. exchange, {}
  for _, member in ipairs(redis.call('SMEMBERS', bindings)) do
    if string.sub(member, -#ending) == ending then gone[#gone + 1] = member end
  end
  for _, member in ipairs(gone) do
    removed = removed + redis.call('SREM', bindings, member)
    redis.call('SREM', ARGV[4] .. exchange, member)
  end
  local expected = redis.call('HGET', KEYS[1], exchange)
  if expected and redis.call('SCARD', bindings) + #gone < tonumber(expected) then
    redis.call('HSET', KEYS[1], '', ARGV[6])
  end
  if #gone > 0 then
    redis.call('DEL', ARGV[5] .. exchange)
    redis.call('HSET', KEYS[1], exchange, redis.call('SCARD', bindings))
  end
end
return removed
