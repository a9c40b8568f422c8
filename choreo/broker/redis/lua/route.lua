-- Shared functions, for `--!include broker/redis/route`: find the queues that are bound for a routing key.
--
-- route(bindings, routes, routing_key, separator): the names of these queues, each once.
-- KEYS/ARGV: none of their own. The caller passes the keys.
-- Returns: a Lua table of queue names.
--
-- bindings  set, permanent, kombu's own format: routing key .. separator .. pattern .. separator .. queue.
--           A member with a pattern comes from a topic exchange, one without from a direct exchange.
-- routes    hash, a cache: 'size' -> how many bindings it was computed from, '=' .. routing key -> packed queue names.
--           With it the cost of a publish does not depend on how many queues are bound to other keys.
--           Binding and unbinding delete it. If kombu's own transport adds bindings, the size differs, and the cache is
--           not used. If it replaces one binding by another, the size is the same: then the cache is wrong until it
--           expires, a minute at most.

-- AMQP splits at every dot and keeps empty words; an empty key has no words at all.
local function words(key)
  local found = {}
  if key == '' then return found end
  for word in string.gmatch(key .. '.', '([^.]*)%.') do found[#found + 1] = word end
  return found
end

-- '*' stands for exactly one word and '#' for any number of words, none included.
local function matches(pattern, i, key, j)
  while i <= #pattern do
    if pattern[i] == '#' then
      while pattern[i + 1] == '#' do i = i + 1 end
      if i == #pattern then return true end
      for k = j, #key + 1 do
        if matches(pattern, i + 1, key, k) then return true end
      end
      return false
    end
    if j > #key or (pattern[i] ~= '*' and pattern[i] ~= key[j]) then return false end
    i, j = i + 1, j + 1
  end
  return j == #key + 1
end

local function search(bindings, routing_key, separator)
  local queues, seen, key = {}, {}, words(routing_key)
  for _, member in ipairs(redis.call('SMEMBERS', bindings)) do
    local first = string.find(member, separator, 1, true)
    local second = first and string.find(member, separator, first + #separator, true)
    if second then
      local bound = string.sub(member, 1, first - 1)
      local topic = second > first + #separator
      local queue = string.sub(member, second + #separator)
      if queue ~= '' and not seen[queue] and
          (bound == routing_key or (topic and matches(words(bound), 1, key, 1))) then
        seen[queue] = true
        queues[#queues + 1] = queue
      end
    end
  end
  table.sort(queues)
  return queues
end

local function route(bindings, routes, routing_key, separator)
  local size = tostring(redis.call('SCARD', bindings))
  if size == '0' then return {} end
  local field = '=' .. routing_key
  local cached = redis.call('HMGET', routes, 'size', field)
  if cached[1] == size and cached[2] then return cmsgpack.unpack(cached[2]) end
  local queues = search(bindings, routing_key, separator)
  -- Routing keys that contain an id must not let the cache grow without bound.
  if cached[1] ~= size or redis.call('HLEN', routes) > 1000 then redis.call('DEL', routes) end
  redis.call('HSET', routes, 'size', size, field, cmsgpack.pack(queues))
  if redis.call('TTL', routes) < 0 then redis.call('EXPIRE', routes, 60) end
  return queues
end
