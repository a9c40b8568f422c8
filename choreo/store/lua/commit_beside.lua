-- Settle a claim, put what is announced into the queues and ack, all in one step: the broker is this very server.
--
-- KEYS 1..7             see settle.lua
--      8 in flight      HASH tag -> queue key \0 token key \0 message, of this copy's consumer; '' if it has none
--      9 bindings       SET, permanent: see the broker's route.lua. Missing, like the next, when nothing is announced
--      10 routes        HASH, a cache: see the broker's route.lua
-- (The queues are found by the script itself: lists, permanent; their tokens: lists, an hour. A broker is one server.)
-- ARGV ..               see settle.lua, then from ARGV[own] on
--      own              the tag of this copy in KEYS[8]: it is acked here, for good
--      own + 1          separator of the bindings' members    own + 2   key prefix    own + 3   token key prefix
--      own + 4..        per message: '1' if the routing key is a queue's name, routing key, delivery tag,
--                       the message's JSON up to the value of "routing_key"
-- Returns               {'ok', how many queues each message reached ...} | {'already'} | {'stale'} | {'lost'}

local separator, prefix, tokens = ARGV[own + 1], ARGV[own + 2], ARGV[own + 3]

-- Where everything goes is found, and looked at, before the first write.
local places = {}
for i = own + 4, #ARGV, 4 do
  local queues = ARGV[i] == '1' and {ARGV[i + 1]} or route(KEYS[9], KEYS[10], ARGV[i + 1], separator)
  for _, queue in ipairs(queues) do
    local kind = redis.call('TYPE', prefix .. queue).ok
    if kind ~= 'list' and kind ~= 'none' then
      return redis.error_reply('WRONGTYPE queue ' .. queue .. ' is a ' .. kind .. ', not a list; nothing was done')
    end
  end
  places[i] = queues
end

local answer = {settle()}
if answer[1] ~= 'ok' then return answer end
if KEYS[8] ~= '' then redis.call('HDEL', KEYS[8], ARGV[own]) end

for i = own + 4, #ARGV, 4 do
  for n, queue in ipairs(places[i]) do
    local address = cjson.encode(queue) .. '}, "delivery_tag": "' .. ARGV[i + 2] .. '.' .. n .. '"}}'
    redis.call('LPUSH', prefix .. queue, ARGV[i + 3] .. address)
    wake(tokens .. queue)
  end
  answer[#answer + 1] = #places[i]
end
return answer
