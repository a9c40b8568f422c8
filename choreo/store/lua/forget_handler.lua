-- Forget keys of a handler, unless something of it is left.
--
-- KEYS[1] due        ZSET schedule id -> time in ms     KEYS[2] messages   HASH schedule id -> message
-- KEYS[3] letters    HASH dead letter id -> JSON        KEYS[4..] keys to delete
-- Returns: 1 if they are deleted, 0 if the handler has dead letters or entries in its schedule.
if redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3]) > 0 then return 0 end
for i = 4, #KEYS do redis.call('UNLINK', KEYS[i]) end
return 1
