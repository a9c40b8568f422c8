-- End the turn of an event that is finished, or has it pass; else let it wait for its retry with the turn.
--
-- KEYS[1] series   KEYS[2] places   KEYS[3] turn   KEYS[4] due   KEYS[5] messages   KEYS[6] done   see series.lua
-- ARGV[1] unit           ARGV[2] ms for which it keeps the turn if it is not finished; '' if it gives the turn up
-- ARGV[3] retention in ms   ARGV[4] grace   ARGV[5] called   ARGV[6] asked   see series.lua
-- Returns: what call_next returns
--!include redis_client/inbox
--!include redis_client/now
--!include store/series

local unit, retention = ARGV[1], tonumber(ARGV[3])
local turn = redis.call('GET', KEYS[3])
if ARGV[2] ~= '' and not finished(unit, retention) then
  if turn == unit then
    redis.call('PEXPIRE', KEYS[3], ARGV[2])
    keep(ARGV[2])
  end
  return {}
end
leave(unit)
if turn and turn ~= unit then return {} end
return call_next(retention, ARGV[4], ARGV[5], ARGV[6])
