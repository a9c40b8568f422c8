-- Put one message into one queue, and wake a consumer.
--
-- KEYS[1] queue           list, permanent unless the queue has an expiry
-- KEYS[2] wake-up mark   list, for an hour: see wake.lua
-- KEYS[3..]               if the queue has an expiry: its lists of all priorities
-- ARGV[1] message  ARGV[2] expiry of the queue in ms, '0' for none
-- Returns: the number of messages in KEYS[1].
--!include broker/redis/wake
local length = redis.call('LPUSH', KEYS[1], ARGV[1])
wake(KEYS[2])
for i = 3, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
return length
