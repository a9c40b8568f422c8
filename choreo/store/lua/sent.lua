-- Remove messages that the broker has.
--
-- KEYS[1] due            ZSET, see due.lua   KEYS[2] messages   HASH schedule id -> message
-- ARGV[1..] schedule ids
-- Returns: nothing
--!include redis_client/now

local now = now_ms()
for _, id in ipairs(ARGV) do
  if string.sub(id, 1, 9) == 'deadline:' then
    -- Pending joins are found by their deadlines, so the entry stays until the join is settled. An entry that was not
    -- handed out is the deadline of the next round.
    local due = tonumber(redis.call('ZSCORE', KEYS[1], id) or 0)
    if due > 0 and due % 1 ~= 0 then redis.call('ZADD', KEYS[1], -now, id) end
  else
    redis.call('ZREM', KEYS[1], id)
    redis.call('HDEL', KEYS[2], id)
  end
end
