#!lua flags=no-writes
-- Count the messages in flight by queue, those of living and those of dead owners, and read some that need attention.
--
-- KEYS[1] consumers   sorted set, permanent: owner -> the time in ms at which it counts as dead; 0 = it is leaving
-- (The script reads each owner's messages in flight: hashes, tag -> queue key \0 wake-up token's key \0 message. A
--  broker is a single server, so these keys need not be declared.)
-- ARGV[1] the start of the names of these hashes
-- ARGV[2] the most messages to return: those of dead owners, and those that were delivered before
-- Returns: {{queue key, of the living, of the dead, ...}, {queue key, 1 if its owner is dead else 0, message, ...}}.
local now = redis.call('TIME')
local ms = tonumber(now[1]) * 1000 + math.floor(tonumber(now[2]) / 1000)
local order, living, dead, texts = {}, {}, {}, {}
local owners = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #owners, 2 do
  local is_dead = tonumber(owners[i + 1]) <= ms
  for _, record in ipairs(redis.call('HVALS', ARGV[1] .. owners[i])) do
    local first = string.find(record, '\0', 1, true)
    local second = string.find(record, '\0', first + 1, true)
    local queue = string.sub(record, 1, first - 1)
    if not living[queue] then
      order[#order + 1] = queue
      living[queue], dead[queue] = 0, 0
    end
    if is_dead then dead[queue] = dead[queue] + 1 else living[queue] = living[queue] + 1 end
    if #texts < tonumber(ARGV[2]) * 3 and (is_dead or string.find(record, '"x-delivery-count"', second, true)) then
      texts[#texts + 1], texts[#texts + 2] = queue, is_dead and 1 or 0
      texts[#texts + 1] = string.sub(record, second + 1)
    end
  end
end
local counts = {}
for _, queue in ipairs(order) do
  counts[#counts + 1], counts[#counts + 2], counts[#counts + 3] = queue, living[queue], dead[queue]
end
return {counts, texts}
