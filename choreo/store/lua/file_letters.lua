-- Add letters to the index that were recorded without it.
--
-- KEYS[1] letters        HASH dead letter id -> JSON   KEYS[2] index  ZSET dead letter id -> time in ms
-- KEYS[3] done           see discard.lua
-- ARGV[1] start of the names of the handler's keys   ARGV[2..] letters: id, group, text about the group, subjects
-- Returns: how many were added: those that are there, and not in the index yet
--!include store/cabinet

local added = 0
for i = 2, #ARGV, 4 do
  local at = redis.call('ZSCORE', KEYS[2], ARGV[i])
  local is_there = at and redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1
  if is_there and redis.call('HEXISTS', ARGV[1] .. 'letters:cards', ARGV[i]) == 0 then
    file_letter(ARGV[1], ARGV[i], at, ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
    added = added + 1
  end
end
return added
