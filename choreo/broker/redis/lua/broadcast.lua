-- Put a copy of one message into every queue that is bound for its routing key: into all of them or none.
--
-- KEYS[1] bindings    set, permanent: see route.lua
-- KEYS[2] routes      hash, cache: see route.lua
-- (The script finds the queues itself: lists, permanent, named key prefix .. queue .. priority suffix. Their wake-up
--  marks: lists, for an hour: see wake.lua. A broker is a single server, so these keys need not be declared.)
-- ARGV[1] routing key          ARGV[2] separator of the bindings' members
-- ARGV[3] key prefix           ARGV[4] priority suffix, '' for the first priority
-- ARGV[5] prefix of the wake-up marks' keys
-- ARGV[6] the message's JSON up to the value of "routing_key"
-- ARGV[7] a delivery tag; each copy gets a suffix of its own
-- Returns: the number of queues. An error if one of them is no list: nothing was sent then.
--!include broker/redis/route
--!include broker/redis/wake
--!include broker/redis/copies
local queues = route(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
local refused = copies_refused(queues, ARGV[3], ARGV[4])
if refused then return redis.error_reply(refused .. '; nothing was sent') end
put_copies(queues, ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7])
return #queues
