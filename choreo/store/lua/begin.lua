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
-- ARGV[9] '1' if the claim is made ahead, see claim_unit.lua
-- Returns: see claim_unit.lua
--!include redis_client/inbox
--!include redis_client/now
--!include store/claim_unit
--!include store/begin_unit

return begin(KEYS[1], KEYS[2], KEYS[3], ARGV[6], ARGV[8], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]),
  tonumber(ARGV[5]), ARGV[7], ARGV[9] == '1')
