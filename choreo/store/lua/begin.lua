-- Claim a unit.
--
-- KEYS 1 unit           HASH, lives for the retention        2 parts  HASH part -> envelope, of a join
--      3 done           start of the names of the HASHes of what is done: see the broker's inbox.lua
-- ARGV 1 attempt, see lease.lua        2 token   3 lease in ms   4 most deliveries   5 retention in ms
--      6 the unit, as it is remembered in `done`; '' for a join
--      7 the HASH of messages in flight in which the token is, '' if it is in none: see lease.lua
-- Returns               see lease.lua
--!include redis_client/inbox
--!include store/lease

if ARGV[6] ~= '' and inbox_has(KEYS[3], inbox_place(ARGV[6]), tonumber(ARGV[5]), now_ms()) then return {'done'} end

return claim(
  KEYS[1], KEYS[2], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[7]
)
