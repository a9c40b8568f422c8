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
-- Returns: for each claim {'ok', number of queues reached by each message ...} | {'already'} | {'stale'} |
--     {'lost'} | {'error', reason}; nothing of the claim is settled unless it is 'ok'
--!include redis_client/inbox
--!include redis_client/now
--!include broker/redis/route
--!include broker/redis/wake
--!include broker/redis/copies
--!include store/settle

local separator, prefix, marks = ARGV[3], ARGV[4], ARGV[5]

local function commit(i, own, last)
  -- All queues are found and checked before the first write.
  local places = {}
  for at = own, last, 4 do
    local queues = ARGV[at] == '1' and {ARGV[at + 1]} or route(KEYS[7], KEYS[8], ARGV[at + 1], separator)
    local refused = copies_refused(queues, prefix, '')
    if refused then return {'error', refused .. '; nothing was done'} end
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
while i <= #ARGV do
  local _, _, _, messages, own = shape(i)
  local fine, answer = pcall(commit, i, own, own + 4 * messages - 1)
  if not fine then answer = {'error', type(answer) == 'table' and answer.err or tostring(answer)} end
  answers[#answers + 1], i = answer, own + 4 * messages
end
return answers
