-- Let the messages of the schedule that wait for the end of a pause fall due now.
--
-- KEYS[1] held           LIST of schedule ids, for a day
-- KEYS[2] due            ZSET, see due.lua
-- ARGV[1] the most messages; 0 for all
-- Returns: the number of messages that fall due now
--!include redis_client/now

local most, count, now = tonumber(ARGV[1]), 0, now_ms()
while most == 0 or count < most do
  -- An error is that of a key of the wrong type: then nothing is remembered.
  local id = redis.pcall('LPOP', KEYS[1])
  if type(id) ~= 'string' then break end
  local score = tonumber(redis.call('ZSCORE', KEYS[2], id))
  -- One that is gone, or that a worker may be sending, needs nothing.
  if score and score > now and score % 1 == 0 then
    redis.call('ZADD', KEYS[2], 'XX', now, id)
    count = count + 1
  end
end
return count
