-- Record how the process ended that ran the current attempt of a unit. See claim_unit.lua for `ended`.
--
-- KEYS[1] unit           HASH, see claim_unit.lua
-- ARGV[1] text
-- ARGV[2..] tokens of the process's claims; one that ends with '-' is the beginning of such tokens. None: any process
-- Returns: 1 if recorded, 0 if the unit is finished or was never begun, or another process has claimed it

local token = redis.call('HGET', KEYS[1], 'token')
if not token then return 0 end
local is_its_own = not ARGV[2]
for n = 2, #ARGV do
  local own = ARGV[n]
  is_its_own = is_its_own or token == own or (string.sub(own, -1) == '-' and string.sub(token, 1, #own) == own)
end
if not is_its_own then return 0 end
redis.call('HSET', KEYS[1], 'ended', (redis.call('HGET', KEYS[1], 'deliveries') or 1) .. ' ' .. ARGV[1])
return 1
