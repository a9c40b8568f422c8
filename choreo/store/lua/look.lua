-- Read one pending join.
--
-- KEYS[1] unit           HASH, see claim_unit.lua   KEYS[2] parts   HASH, see arrive.lua
-- KEYS[3] due            ZSET, see due.lua
-- ARGV[1] schedule id of its deadline   ARGV[2] lease in ms
-- Returns: {} if it is not pending, else {the deadline in ms, 1 if the deadline was sent else 0,
--     attempts that failed, ms left of the claim's lease, name, part, name, part, ...}
--!include redis_client/now

local score = tonumber(redis.call('ZSCORE', KEYS[3], ARGV[1]))
if not score then return {} end
local state = redis.call('HMGET', KEYS[1], 'settled', 'until', 'token', 'inflight')
local now = now_ms()
local left = state[3] and math.max(tonumber(state[2] or 0) - now, 0) or 0
if left == 0 and state[4] and redis.call('HEXISTS', state[4], state[3]) == 1 then left = tonumber(ARGV[2]) end
local deadline = string.format('%.0f', math.floor(math.abs(score)))
local answer = {deadline, score < 0 and 1 or 0, tonumber(state[1] or 0), left}
for _, text in ipairs(redis.call('HGETALL', KEYS[2])) do answer[#answer + 1] = text end
return answer
