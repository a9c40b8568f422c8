#!lua flags=allow-oom
-- Count that a unit is begun which was claimed when its message was taken.
--
-- KEYS 1 unit           HASH, see lease.lua
-- ARGV 1 token
-- Returns               how often it was begun; 0 when it is no longer this worker's

if redis.call('HGET', KEYS[1], 'token') ~= ARGV[1] then return 0 end
return redis.call('HINCRBY', KEYS[1], 'deliveries', 1)
