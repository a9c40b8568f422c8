-- Claim a unit.
--
-- KEYS[1] unit           HASH, for the retention
-- KEYS[2] parts           HASH, a join's parts, see arrive.lua
-- KEYS[3] done           start of the names of the inbox's HASHes: see redis_client/lua/inbox.lua
-- ARGV[1] attempt, see claim_unit.lua   ARGV[2] token
-- ARGV[3] lease in ms    ARGV[4] most deliveries   ARGV[5] retention in ms
-- ARGV[6] the unit's id in the inbox; '' for none
-- ARGV[7] in flight: the HASH of the messages in flight that has the token as a field; '' for none. See claim_unit.lua
-- ARGV[8] the identity of an event that must not have taken part in a round of a join; '' for none. If the round is
--     settled, the event counts as one that took part in it
-- Returns: see claim_unit.lua
--!include redis_client/inbox
--!include redis_client/now
--!include store/claim_unit

local retention, unit, once = tonumber(ARGV[5]), ARGV[6], ARGV[8]

if unit ~= '' and inbox_has(KEYS[3], inbox_place(unit), retention, now_ms()) then return {'done'} end
if once ~= '' and inbox_has(KEYS[3], inbox_round(once), retention, now_ms()) then return {'done'} end

local answer = claim(KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), retention, ARGV[7])
if once ~= '' and answer[1] == 'done' and redis.call('HEXISTS', KEYS[1], 'done') == 1 then
  inbox_add(KEYS[3], inbox_round(once), retention, now_ms())
end
return answer
