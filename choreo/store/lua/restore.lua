-- Shared function, for `--!include store/restore`: put back the parts of a join.
--
-- restore(parts, at, last, now) puts back the parts from ARGV[at] to ARGV[last]. parts is a HASH, see arrive.lua.
-- KEYS: none of its own.
-- ARGV[at..last] a part's name and its text, or '?type' and how many of the type are needed; repeated
-- Returns: nothing

local function restore(parts, at, last, now)
  for i = at, last, 2 do
    local name, text = ARGV[i], ARGV[i + 1]
    if string.sub(name, 1, 1) == '?' then
      redis.call('HSET', parts, name, text)
    elseif redis.call('HSETNX', parts, name, string.format('%.0f ', now) .. text) == 1 then
      local several = string.match(name, '^([^/]+)/')
      if several then redis.call('HINCRBY', parts, '#' .. several, 1) end
    end
  end
end
