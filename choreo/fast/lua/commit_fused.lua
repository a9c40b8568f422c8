-- Settle claims, put the announced events into the queues, and ack: the broker is this same server. Each claim is
-- settled in one step, all of it or nothing. One call settles several: a call costs Redis as much as a settlement does.
--
-- KEYS[1..5] see settle.lua
-- KEYS[6] in flight      HASH tag -> queue key \0 wake-up mark's key \0 message, of the copies' consumer
-- KEYS[7] bindings       SET, permanent: see the broker's route.lua
-- KEYS[8] routes         HASH, a cache: see the broker's route.lua
-- (The queues are found by the script itself: lists, permanent; their marks: lists, an hour. A broker is one server.)
-- ARGV[1] and ARGV[2] see settle.lua
-- ARGV[3] separator of the bindings' members     ARGV[4] key prefix     ARGV[5] wake-up mark key prefix
-- ARGV[6..] claims, one after the other: see settle.lua. The token is the tag of the copy in KEYS[6], which is acked
--     here. For each message: '1' if the routing key is a queue's name, routing key, delivery tag, the message's
--     JSON up to the value of "routing_key"
--     The first claim may have no token: see settle.lua
-- Returns: for each claim {'ok', number of queues reached by each message ...} | {'already'} | {'stale'} |
--     {'lost'} | {'error', reason}; nothing of the claim is settled unless it is 'ok'. If the first has no token, last
--     {'shared', number of queues reached by each of its messages ...}; or only {'error', reason}, and nothing is settled
--!include redis_client/inbox
--!include redis_client/now
--!include broker/redis/route
--!include broker/redis/wake
--!include broker/redis/copies
--!include store/cabinet
--!include store/settle

local separator, prefix, marks = ARGV[3], ARGV[4], ARGV[5]

-- The queues of the message whose arguments begin at ARGV[at]; or nil, and why they cannot take it.
local function queues_of(at)
  local queues = ARGV[at] == '1' and {ARGV[at + 1]} or route(KEYS[7], KEYS[8], ARGV[at + 1], separator)
  local refused = copies_refused(queues, prefix, '')
  if refused then return nil, refused .. '; nothing was done' end
  return queues
end

local function commit(i, own, last)
  -- All queues are found and checked before the first write.
  local places = {}
  for at = own, last, 4 do
    local queues, refused = queues_of(at)
    if refused then return {'error', refused} end
    places[at] = queues
  end

  local answer = {settle(i)}
  if answer[1] ~= 'ok' then return answer end
  redis.call('HDEL', KEYS[6], ARGV[i])

  for at = own, last, 4 do
    put_copies(places[at], prefix, '', marks, ARGV[at + 3], ARGV[at + 2])
    answer[#answer + 1] = #places[at]
  end
  return answer
end

local answers, i = {}, 6
local any, shared, own, last, places = false, nil, nil, nil, {}
if ARGV[i] == '' then
  local _, _, _, messages, at = shape(i)
  shared, own, last = i, at, at + 4 * messages - 1
  for at = own, last, 4 do
    local queues, refused = queues_of(at)
    if refused then return {{'error', refused}} end
    places[at] = queues
  end
  i = last + 1
end
while i <= #ARGV do
  local _, _, _, messages, own = shape(i)
  local fine, answer = pcall(commit, i, own, own + 4 * messages - 1)
  if not fine then answer = {'error', type(answer) == 'table' and answer.err or tostring(answer)} end
  answers[#answers + 1], i = answer, own + 4 * messages
  any = any or answer[1] == 'ok'
end
if shared then
  local reached = {'shared'}
  if any then
    local _, _, scheduled = shape(shared)
    put_scheduled(shared + 6, scheduled, now_ms())
    for at = own, last, 4 do
      put_copies(places[at], prefix, '', marks, ARGV[at + 3], ARGV[at + 2])
      reached[#reached + 1] = #places[at]
    end
  end
  answers[#answers + 1] = reached
end
return answers
