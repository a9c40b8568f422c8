#!lua flags=allow-oom
-- Read an owner's messages in flight, the newest first.
--
-- KEYS[1] in flight   hash, exists while it holds messages: tag -> queue key \0 wake-up mark's key \0 message
-- ARGV[1] the most messages to return
-- ARGV[2] '1' for all but the tags that follow, '0' for only the tags that follow
-- ARGV[3..] tags
-- Returns: {tag, message, tag, message, ...}.
local listed = {}
for i = 3, #ARGV do listed[ARGV[i]] = true end
local found, number = {}, {}
for _, tag in ipairs(redis.call('HKEYS', KEYS[1])) do
  if (listed[tag] == nil) == (ARGV[2] == '1') then
    found[#found + 1] = tag
    number[tag] = tonumber(string.match(tag, '%d+$')) or 0
  end
end
table.sort(found, function(a, b) return number[a] > number[b] end)
local out = {}
for i = 1, math.min(#found, tonumber(ARGV[1])) do
  local record = redis.call('HGET', KEYS[1], found[i])
  local first = string.find(record, '\0', 1, true)
  local second = string.find(record, '\0', first + 1, true)
  out[#out + 1], out[#out + 2] = found[i], string.sub(record, second + 1)
end
return out
