-- Shared functions, for `--!include broker/redis/copies` after broker/redis/wake: put copies of a message into queues.
--
-- copies_refused(queues, prefix, suffix): an error text if one of these queues is no list; nil if each can take a copy.
-- put_copies(queues, prefix, suffix, marks, head, tag): puts a copy into each of these queues, and wakes a consumer.
-- KEYS/ARGV: none of their own. prefix and suffix: of the queues' keys. marks: the start of the names of the wake-up
--     marks' keys. head: the message's JSON up to the value of "routing_key". tag: a delivery tag; each copy gets a
--     suffix of its own.
-- Returns: see each function; put_copies returns nothing.
local function copies_refused(queues, prefix, suffix)
  for _, queue in ipairs(queues) do
    local kind = redis.call('TYPE', prefix .. queue .. suffix).ok
    if kind ~= 'list' and kind ~= 'none' then
      return 'WRONGTYPE queue ' .. queue .. ' is a ' .. kind .. ', not a list'
    end
  end
end

local function put_copies(queues, prefix, suffix, marks, head, tag)
  for n, queue in ipairs(queues) do
    local address = cjson.encode(queue) .. '}, "delivery_tag": "' .. tag .. '.' .. n .. '"}}'
    redis.call('LPUSH', prefix .. queue .. suffix, head .. address)
    wake(marks .. queue)
  end
end
