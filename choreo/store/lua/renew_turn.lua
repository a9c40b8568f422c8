-- Prolong the turn of a run.
--
-- KEYS[1] turn           STRING, see series.lua   KEYS[2] series   ZSET, see there   KEYS[3] places   HASH, see there
-- ARGV[1] unit           ARGV[2] ms for which a run has the turn   ARGV[3] retention in ms
-- Returns: 1 if prolonged, 0 if another event has the turn

if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
for i = 2, 3 do
  if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
end
return 1
