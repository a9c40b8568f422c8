-- Claim several units of one handler, each in one step.
--
-- KEYS[1] done           start of the names of the inbox's HASHes: see redis_client/lua/inbox.lua
-- (The script names more keys, in the same slot of a cluster:
--     ARGV[1] .. 'unit:' .. unit    HASH, for the retention
--     ARGV[1] .. 'parts:' .. unit   HASH, a join's parts, see arrive.lua)
-- ARGV[1] start of the names of the handler's keys   ARGV[2] most deliveries   ARGV[3] retention in ms
-- ARGV[4..] claims, seven arguments each: attempt, token, lease in ms, '1' if the claim is made ahead, unit, the unit's
--     id in the inbox, identity of an event: see begin.lua
-- Returns: for each claim the answer of claim_unit.lua | {'error', reason}: nothing of that claim was done
--!include redis_client/inbox
--!include redis_client/now
--!include store/claim_unit
--!include store/begin_unit

local most, retention = tonumber(ARGV[2]), tonumber(ARGV[3])

local answers = {}
for i = 4, #ARGV, 7 do
  local unit = ARGV[i + 4]
  local fine, answer = pcall(begin, ARGV[1] .. 'unit:' .. unit, ARGV[1] .. 'parts:' .. unit, KEYS[1], ARGV[i + 5],
    ARGV[i + 6], ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), most, retention, '', ARGV[i + 3] == '1')
  if not fine then answer = {'error', type(answer) == 'table' and answer.err or tostring(answer)} end
  answers[#answers + 1] = answer
end
return answers
