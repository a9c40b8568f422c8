-- Make one step in the retirement of a handler: see choreo/store/deployments.py.
--
-- KEYS[1] workers    KEYS[2] bindings   KEYS[3] queues   KEYS[4] retirements   KEYS[5] applied   see declare.lua
-- ARGV[1] queue      ARGV[2] step       ARGV[3] the record of the mark   ARGV[4] ms for which a deletion holds
-- Returns: {1 if the step was made else 0, 1 if the handler is applied else 0, live workers that declare it ...}.
--!include redis_client/now
local now, queue, step = now_ms(), ARGV[1], ARGV[2]
local start = '\n' .. queue .. ' '
local mark = redis.call('HGET', KEYS[4], queue)

local owners = {}
local workers = redis.call('HGETALL', KEYS[1])
for i = 1, #workers, 2 do
  local until_ms = tonumber(string.match(workers[i + 1], '^%d+'))
  if until_ms > now and string.find(workers[i + 1], start, 1, true) then owners[#owners + 1] = workers[i] end
end
local applied = redis.call('GET', KEYS[5])
local is_applied = applied and string.find(applied, start, 1, true) and 1 or 0

local function forget_bindings()
  for _, binding in ipairs(redis.call('SMEMBERS', KEYS[2])) do
    if string.sub(binding, 1, #queue + 1) == queue .. ' ' then redis.call('SREM', KEYS[2], binding) end
  end
end

local function make()
  if step == 'cancel' then return redis.call('HDEL', KEYS[4], queue) end
  if is_applied == 1 or (step ~= 'drain' and #owners > 0) then return 0 end
  if step == 'begin' or step == 'drain' then
    redis.call('HSET', KEYS[4], queue, '0 ' .. ARGV[3])
  elseif not mark then
    return 0
  elseif step == 'delete' then
    redis.call('HSET', KEYS[4], queue, string.format('%.0f', now + ARGV[4]) .. ' ' .. string.match(mark, ' (.*)$'))
  else
    redis.call('HSET', KEYS[4], queue, 'over ' .. string.match(mark, ' (.*)$'))
    redis.call('SREM', KEYS[3], queue)
    forget_bindings()
  end
  return 1
end

return {make(), is_applied, unpack(owners)}
