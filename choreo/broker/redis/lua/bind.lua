-- Write bindings; or repair them, if the server has lost some.
--
-- A consumer that finds bindings missing repairs them and changes the epoch. A different epoch tells every other
-- consumer that its bindings may be missing too.
--
-- KEYS[1] bound       hash, permanent: exchange -> how many bindings it should have; '' -> the epoch
-- KEYS[2] exchanges   hash, permanent: exchange -> its type
-- KEYS[3..]           per binding, the exchange's bindings and routes: see route.lua
-- ARGV[1] '0' to bind, '1' to repair if bindings were lost
-- ARGV[2] the epoch that this consumer knows   ARGV[3] a new epoch, if one is needed
-- ARGV[4..] exchange, type, member of the set; one triple per pair of KEYS
-- Returns: {the current epoch, how many bindings were missing and are written now}.
local epoch, added, repair = redis.call('HGET', KEYS[1], ''), 0, ARGV[1] == '1'
local lost = repair and epoch ~= ARGV[2]
for i = 4, #ARGV, 3 do
  local expected = redis.call('HGET', KEYS[1], ARGV[i])
  local known = redis.call('SCARD', KEYS[3 + (i - 4) / 3 * 2])
  if (repair and not expected) or known < tonumber(expected or 0) then lost, epoch = true, ARGV[3] end
end
if repair and not lost then return {epoch, 0} end
if not epoch then epoch = ARGV[3] end
for i = 4, #ARGV, 3 do
  local bindings, routes = KEYS[3 + (i - 4) / 3 * 2], KEYS[4 + (i - 4) / 3 * 2]
  added = added + redis.call('SADD', bindings, ARGV[i + 2])
  redis.call('DEL', routes)
  redis.call('HSET', KEYS[1], ARGV[i], redis.call('SCARD', bindings), '', epoch)
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
return {epoch, added}
