-- Remove dead letters.
--
-- KEYS[1] letters        HASH dead letter id -> JSON   KEYS[2] index  ZSET dead letter id -> time in ms
-- KEYS[3] done           start of the names of the inbox's HASHes, which is no key: it makes the script wait for a slot
--     that moves, since the script also uses the keys of cabinet.lua
-- ARGV[1] start of the names of the handler's keys   ARGV[2..] dead letter ids
-- Returns: for each id 1, or 0 if there was no such letter
--!include store/cabinet

local answers = {}
for i = 2, #ARGV do
  answers[i - 1] = redis.call('HDEL', KEYS[1], ARGV[i])
  redis.call('ZREM', KEYS[2], ARGV[i])
  forget_letter(ARGV[1], ARGV[i])
end
return answers
