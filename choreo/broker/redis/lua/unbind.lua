-- Remove bindings of one exchange.
--
-- KEYS[1] bound       hash, permanent: see bind.lua      KEYS[2] bindings   set, permanent: see route.lua
-- KEYS[3] permanent   set, permanent: kombu's list of bindings that never expire
-- KEYS[4] routes      hash, cache: see route.lua
-- ARGV[1] exchange    ARGV[2] a new epoch, used if bindings were lost before     ARGV[3..] members of the set
-- Returns: the number of bindings removed.
local removed, expected = 0, redis.call('HGET', KEYS[1], ARGV[1])
if expected and redis.call('SCARD', KEYS[2]) < tonumber(expected) then redis.call('HSET', KEYS[1], '', ARGV[2]) end
for i = 3, #ARGV do
  removed = removed + redis.call('SREM', KEYS[2], ARGV[i])
  redis.call('SREM', KEYS[3], ARGV[i])
end
redis.call('DEL', KEYS[4])
if expected then redis.call('HSET', KEYS[1], ARGV[1], redis.call('SCARD', KEYS[2])) end
return removed
