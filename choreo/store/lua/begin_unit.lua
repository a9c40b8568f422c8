-- Shared function, for `--!include store/begin_unit` after redis_client/inbox, redis_client/now and store/claim_unit, in
-- begin.lua and begin_all.lua: claim a unit that is no join, or a join without a part.
--
-- begin(unit, parts, done, inbox_id, once, attempt, token, lease_ms, max_deliveries, retention_ms, inflight, ahead)
-- KEYS/ARGV: none of its own. unit, parts and done are names of keys: see begin.lua.
-- Returns: see claim_unit.lua
local function begin(unit, parts, done, inbox_id, once, attempt, token, lease, most, retention, inflight, ahead)
  if inbox_id ~= '' and inbox_has(done, inbox_place(inbox_id), retention, now_ms()) then return {'done'} end
  if once ~= '' and inbox_has(done, inbox_round(once), retention, now_ms()) then return {'done'} end

  local answer = claim(unit, parts, attempt, token, lease, most, retention, inflight, ahead)
  if once ~= '' and answer[1] == 'done' and redis.call('HEXISTS', unit, 'done') == 1 then
    inbox_add(done, inbox_round(once), retention, now_ms())
  end
  return answer
end
