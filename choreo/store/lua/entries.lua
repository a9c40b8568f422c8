-- Read a page of a schedule, soonest first.
--
-- KEYS[1] due            ZSET schedule id -> time in ms, see due.lua   KEYS[2] messages   HASH schedule id -> message
-- ARGV[1] most entries   ARGV[2] time and ARGV[3] schedule id after which the page begins. '' for the id: the page begins
--     with the first entry of this time
-- Returns: schedule id, time, message or '' for none; repeated. Deadlines that were sent have a negative time, and are
--     left out

local CHUNK = 500
local most, time, last = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]

-- Entries of the same time are in the order of their ids.
local function place_after(from)
  if tonumber(redis.call('ZSCORE', KEYS[1], last) or '') == time then return redis.call('ZRANK', KEYS[1], last) + 1 end
  while true do
    local chunk = redis.call('ZRANGE', KEYS[1], from, from + CHUNK - 1, 'WITHSCORES')
    for i = 1, #chunk, 2 do
      if tonumber(chunk[i + 1]) ~= time or chunk[i] > last then return from end
      from = from + 1
    end
    if #chunk < 2 * CHUNK then return from end
  end
end

local from = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. ARGV[2])
if last ~= '' then from = place_after(from) end
local page = redis.call('ZRANGE', KEYS[1], from, from + most - 1, 'WITHSCORES')
local answer = {}
for i = 1, #page, 2 do
  answer[#answer + 1] = page[i]
  answer[#answer + 1] = page[i + 1]
  answer[#answer + 1] = redis.call('HGET', KEYS[2], page[i]) or ''
end
return answer
