-- Remove dead letters from the index that are gone. Those that are there stay.
--
-- KEYS[1] letters        HASH dead letter id -> JSON   KEYS[2] index  ZSET dead letter id -> time in ms
-- KEYS[3] done           see discard.lua
-- ARGV[1] start of the names of the handler's keys   ARGV[2..] dead letter ids
-- Returns: nothing
--!include store/cabinet

for i = 2, #ARGV do
  if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 0 then
    redis.call('ZREM', KEYS[2], ARGV[i])
    forget_letter(ARGV[1], ARGV[i])
  end
end
