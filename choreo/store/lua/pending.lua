-- Read a page of pending joins, soonest deadline first. A join's deadline is in the schedule until the join is settled.
--
-- KEYS[1] due            ZSET schedule id -> time in ms, see due.lua
-- ARGV[1] most joins     ARGV[2] score and ARGV[3] schedule id after which the page begins; '' for the first page
-- Returns: {units, the cursor of the next page: score, a space, schedule id; '' at the end}

-- The schedule also holds retries. A call looks at GLANCES entries at most, read in chunks of CHUNK.
local GLANCES, CHUNK = 5000, 500

local most, score, last = tonumber(ARGV[1]), ARGV[2], ARGV[3]

local from = 0
if score ~= '' then
  if redis.call('ZSCORE', KEYS[1], last) == score then
    from = redis.call('ZRANK', KEYS[1], last) + 1
  else
    -- The entry is gone. Entries with the same score are in the order of their ids.
    from = redis.call('ZCOUNT', KEYS[1], '-inf', '(' .. score)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], score, score)) do
      if id > last then break end
      from = from + 1
    end
  end
end

local units = {}
for start = from, from + GLANCES - 1, CHUNK do
  local entries = redis.call('ZRANGE', KEYS[1], start, start + CHUNK - 1, 'WITHSCORES')
  for i = 1, #entries, 2 do
    last, score = entries[i], entries[i + 1]
    local unit = string.match(last, '^deadline:(.*)$')
    if unit then units[#units + 1] = unit end
    if #units == most then return {units, score .. ' ' .. last} end
  end
  if #entries < 2 * CHUNK then return {units, ''} end
end
return {units, score .. ' ' .. last}
