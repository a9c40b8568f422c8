-- Note that an event of a series has come.
--
-- KEYS[1] series   KEYS[2] places   KEYS[3] turn   KEYS[4] due   KEYS[5] messages   KEYS[6] done   see series.lua
-- ARGV[1] unit           ARGV[2] time of the event in microseconds   ARGV[3] retention in ms
-- Returns: nothing
--!include redis_client/inbox
--!include redis_client/now
--!include store/series

if finished(ARGV[1], tonumber(ARGV[3])) then return end
enter(ARGV[1], ARGV[2])
keep(ARGV[3])
