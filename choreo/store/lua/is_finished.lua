-- Tell if a unit is finished for good.
--
-- KEYS[1] unit           HASH, see claim_unit.lua   KEYS[2] done   start of the names of the inbox's HASHes: see
--     redis_client/lua/inbox.lua
-- ARGV[1] the unit's id in the inbox; '' for a join   ARGV[2] retention in ms
-- Returns: 1 or 0
--!include redis_client/inbox
--!include redis_client/now

if redis.call('HEXISTS', KEYS[1], 'done') == 1 then return 1 end
if ARGV[1] == '' then return 0 end
return inbox_has(KEYS[2], inbox_place(ARGV[1]), tonumber(ARGV[2]), now_ms()) and 1 or 0
