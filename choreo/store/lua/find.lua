-- Find the entries of a HASH that contain a text: a part of the HASH at a time.
--
-- KEYS[1] HASH of messages or dead letters
-- ARGV[1] cursor of HSCAN   ARGV[2] about how many entries to look at   ARGV[3..] the texts
-- Returns: {the next cursor, '0' at the end; how many entries were looked at; field, value, field, value, ...}
-- The entries that do not match are not sent.

local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
local entries = page[2]
local answer = {page[1], #entries / 2}
for i = 1, #entries, 2 do
  for n = 3, #ARGV do
    if string.find(entries[i + 1], ARGV[n], 1, true) then
      answer[#answer + 1] = entries[i]
      answer[#answer + 1] = entries[i + 1]
      break
    end
  end
end
return answer
