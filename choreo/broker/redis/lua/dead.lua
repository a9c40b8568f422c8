-- Shared function, for `--!include broker/redis/dead`: find the owners that are dead.
--
-- find_dead(consumers, me, timeout, my_silence, ms) looks for them in the name of a live owner.
--     consumers   the key of the sorted set: owner -> the time in ms at which it counts as dead; 0 = it is leaving; with
--                 a fraction if its time was started a second time
--     me, timeout the live owner and its timeout in ms       my_silence  ms since it was heard of before this call
--     ms          the time of the server
-- KEYS/ARGV: none of its own.
-- Returns: the dead owners, at most 100.
--
-- An owner whose time has passed is dead, but an outage of the server must make no owner count as dead. The silence of
-- the live owner tells one from the other:
--   up to half of the other owner's timeout: the server was reachable, so the other owner is dead;
--   more than half of its own timeout: this consumer or the server was away. If no other consumer was heard of, it was
--       the server, and the other owner's time starts again. Else this consumer leaves the decision to others;
--   in between, if its own timeout is much longer: the other owner's time starts again once. After that it is dead.
-- An owner that is leaving counts as dead at once. After an outage the time also starts again of an owner that has less
-- left than it needs to notice that the server is back.
-- So whatever prolongs the life of an owner that was silent must call this function first.
local NOTICE_MS = 2000
local function find_dead(consumers, me, timeout, my_silence, ms)
  local function timeout_of(owner) return tonumber(string.match(owner, '%-(%d+)$')) or timeout end

  -- The time since the latest beat of any consumer, without the call that asks.
  local function latest_sign_of_life()
    local least, all = my_silence, redis.call('ZRANGEBYSCORE', consumers, '(0', '+inf', 'WITHSCORES')
    for i = 1, #all, 2 do
      if all[i] ~= me then least = math.min(least, ms - (tonumber(all[i + 1]) - timeout_of(all[i]))) end
    end
    return least
  end

  local dead, latest = {}, nil
  local late = redis.call('ZRANGEBYSCORE', consumers, '-inf', string.format('%.0f', ms + NOTICE_MS), 'WITHSCORES')
  for i = 1, #late, 2 do
    local owner, until_ms = late[i], tonumber(late[i + 1])
    local patience, has_passed = timeout_of(owner), until_ms <= ms
    local grace = patience / 2
    local is_dead = until_ms == 0 or my_silence <= grace
    if owner == me then
      is_dead = false
    elseif not is_dead and my_silence > timeout / 2 then
      latest = latest or latest_sign_of_life()
      if latest > grace then
        -- No consumer was heard of, so the server was away. The time of this owner starts again.
        redis.call('ZADD', consumers, string.format('%.0f', ms + patience), owner)
      end
      -- Else only this consumer was cut off, so it leaves the decision to others.
    elseif not is_dead and has_passed then
      is_dead = until_ms % 1 ~= 0
      if not is_dead then
        -- This consumer beats in time, but so rarely that the server may have been away while the owner was silent. The
        -- owner's time starts again. The fraction marks that, and the owner's next beat removes it.
        redis.call('ZADD', consumers, string.format('%.1f', ms + patience + 0.5), owner)
      end
    end
    if is_dead and has_passed and #dead < 100 then dead[#dead + 1] = owner end
  end
  return dead
end
