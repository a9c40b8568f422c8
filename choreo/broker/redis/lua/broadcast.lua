-- Put a copy of one message into every queue that is bound for its routing key: into all of them or none.
--
-- KEYS[1] bindings    set, permanent: see route.lua
-- KEYS[2] routes      hash, cache: see route.lua
-- (The script finds the queues itself: lists, permanent, named key prefix .. queue .. priority suffix. Their wake-up
--  marks: lists, for an hour: see wake.lua. A broker is a single server, so these keys need not be declared.)
-- ARGV[1] routing key          ARGV[2] separator of the bindings' members
-- ARGV[3] key prefix           ARGV[4] priority suffix, '' for the first priority
-- ARGV[5] prefix of the wake-up marks' keys
-- ARGV[6] the message's JSON up to the value of "routing_key"
-- ARGV[7] a delivery tag; each copy gets a suffix of its own
-- Returns: the number of queues. An error if one of them is no list: nothing was sent then.
--!include broker/redis/route
--!include broker/redis/wake
local queues = route(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
for _, queue in ipairs(queues) do
  local kind = redis.call('TYPE', ARGV[3] .. queue .. ARGV[4]).ok
  if kind ~= 'list' and kind ~= 'none' then
    return redis.error_reply('WRONGTYPE queue ' .. queue .. ' is a ' .. kind .. ', not a list; nothing was sent')
  end
end
for i, queue in ipairs(queues) do
  local address = cjson.encode(queue) .. '}, "delivery_tag": "' .. ARGV[7] .. '.' .. i .. '"}}'
  redis.call('LPUSH', ARGV[3] .. queue .. ARGV[4], ARGV[6] .. address)
  wake(ARGV[5] .. queue)
end
return #queues
