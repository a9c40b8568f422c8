-- Find entries of a handler's record that contain a text.
--
-- KEYS[1] record       STREAM, for the lifetime of the record: see store/runs.py
-- ARGV[1] the text
-- Returns: {id, text, id, text, ...}, oldest first
-- The entries that do not match are not sent. One list has at most a thirty-second of the record.

local answer = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+')) do
  local text = entry[2][2]
  if string.find(text, ARGV[1], 1, true) then
    answer[#answer + 1] = entry[1]
    answer[#answer + 1] = text
  end
end
return answer
