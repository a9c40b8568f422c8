-- Count events that reached no queue.
--
-- KEYS[1] unheard    hash, permanent: "n " .. type -> how many, "t " .. type -> ms of the last, a space, its source
-- ARGV[1] the source of the events
-- ARGV[2] the most types that are counted; a program may make up a type for each event
-- ARGV[3..] type, how many; repeated
-- Returns: nothing.
--!include redis_client/now
for i = 3, #ARGV, 2 do
  local count = 'n ' .. ARGV[i]
  if redis.call('HLEN', KEYS[1]) < 2 * ARGV[2] or redis.call('HEXISTS', KEYS[1], count) == 1 then
    redis.call('HINCRBY', KEYS[1], count, ARGV[i + 1])
    redis.call('HSET', KEYS[1], 't ' .. ARGV[i], string.format('%.0f ', now_ms()) .. ARGV[1])
  end
end
