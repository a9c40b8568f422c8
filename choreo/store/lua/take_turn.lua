-- Take the turn of an event in its series, or keep it in the schedule until its turn comes.
--
-- KEYS[1] series   KEYS[2] places   KEYS[3] turn   KEYS[4] due   KEYS[5] messages   KEYS[6] done   see series.lua
-- ARGV[1] unit           ARGV[2] time of the event in microseconds   ARGV[3] retention in ms
-- ARGV[4] schedule id    ARGV[5] message   ARGV[6] ms after which it asks again
-- ARGV[7] ms for which a run has the turn   ARGV[8] grace   ARGV[9] called   ARGV[10] asked   see series.lua
-- Returns: {'go' | 'wait' | 'done'}, then what call_next returns
--!include redis_client/inbox
--!include redis_client/now
--!include store/series

local unit, retention = ARGV[1], tonumber(ARGV[3])
local turn = redis.call('GET', KEYS[3])
if turn and turn ~= unit and finished(turn, retention) then
  -- It was settled without the end of its turn: by hand, or its worker died in between.
  leave(turn)
  turn = nil
end
if finished(unit, retention) then
  leave(unit)
  local called = (not turn or turn == unit) and call_next(retention, ARGV[8], ARGV[9], ARGV[10]) or {}
  return {'done', unpack(called)}
end
enter(unit, ARGV[2])
keep(ARGV[3])
local called, silent = {}, redis.call('HGET', KEYS[2], '?')
if silent == unit then redis.call('HDEL', KEYS[2], '?') end
if not turn then
  -- It had the turn, and did not ask for it in time: most likely it is lost.
  if silent and silent ~= unit then leave(silent) end
  -- Nobody has the turn, or no sign of the event was seen that had it.
  if string.sub(redis.call('ZRANGE', KEYS[1], 0, 0)[1], 18) == unit then
    turn = unit
  else
    called = call_next(retention, ARGV[8], ARGV[9], ARGV[10])
  end
end
forget_copy(unit)
if turn == unit then
  redis.call('SET', KEYS[3], unit, 'PX', ARGV[7])
  return {'go'}
end
redis.call('HSET', KEYS[2], 'e:' .. unit, ARGV[4])
redis.call('HSETNX', KEYS[5], ARGV[4], ARGV[5])
redis.call('ZADD', KEYS[4], 'NX', now_ms() + ARGV[6], ARGV[4])
return {'wait', unpack(called)}
