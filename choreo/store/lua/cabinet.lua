-- Shared functions, for `--!include store/cabinet`: the index of a handler's dead letters.
--
-- file_letter(start, id, ms, group, about, subjects): add a letter to the index. Nothing depends on the index, so an
--     error of Redis (a key of the wrong type) is ignored: the letter is added when letters are listed.
-- forget_letter(start, id): remove a letter from the index.
-- KEYS/ARGV: none of their own. start: of the names of the handler's keys. ms: when the letter was recorded.
-- Returns: nothing.
--
-- (The keys are in the slot of the others, and permanent:
--     start .. 'letters:cards'            HASH dead letter id -> group .. ' ' .. subjects as JSON
--     start .. 'letters:groups'           HASH group -> text about it
--     start .. 'letters:group:' .. group  ZSET dead letter id -> time in ms)

local function file_letter(start, id, ms, group, about, subjects)
  redis.pcall('HSET', start .. 'letters:cards', id, group .. ' ' .. subjects)
  redis.pcall('HSET', start .. 'letters:groups', group, about)
  redis.pcall('ZADD', start .. 'letters:group:' .. group, ms, id)
end

local function forget_letter(start, id)
  local card = redis.pcall('HGET', start .. 'letters:cards', id)
  if type(card) ~= 'string' then return end
  redis.call('HDEL', start .. 'letters:cards', id)
  local group = string.match(card, '^%S*')
  local letters = start .. 'letters:group:' .. group
  redis.pcall('ZREM', letters, id)
  if redis.call('EXISTS', letters) == 0 then redis.pcall('HDEL', start .. 'letters:groups', group) end
end
