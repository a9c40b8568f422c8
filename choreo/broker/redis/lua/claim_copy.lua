-- Shared function, for `--!include broker/redis/claim_copy` after redis_client/inbox: claim the unit of a taken copy.
--
-- claim_copy(base, retention, inflight, tag, text, ms) reads one copy of an event, and claims its unit if it can.
-- KEYS/ARGV: none of its own. base: the start of the names of the handler's keys. inflight: the key of the consumer's
--     messages in flight. retention: of the handler's inbox, in ms. ms: the server's time.
-- Returns: 'done' if the unit is finished: the copy can be dropped.
--     '<attempt> <unit>' if the unit is claimed for this copy now.
--     '' if the worker must ask the store: the copy was delivered before, the unit was begun before or is claimed for
--     another copy, or the text is not as choreo writes it.
--
-- base .. 'unit:' .. unit hash, for the retention: see the store's claim_unit.lua
-- base .. 'done:' ..      hashes of the finished units: see inbox.lua
local CLAIM_HEAD = '"headers": {"lang": "py", "task": "choreo.event", "id": "'
local CLAIM_BODY = '{"body": "[[{\\"specversion\\":\\"1.0\\",\\"id\\":\\"'

local function claim_copy(base, retention, inflight, tag, text, ms)
  -- In a JSON string every quote is escaped, so this pattern cannot match inside an event's data.
  local from = string.find(text, CLAIM_HEAD, 1, true)
  if not from then return '' end
  local id, retries = string.match(text, '^([^"\\]+)", [^{}]-"retries": (%d+), ', from + #CLAIM_HEAD)
  if not id then return '' end
  -- The body must begin as an event with the same id. A message that is no readable event must not be dropped here: it
  -- becomes a dead letter.
  local body = CLAIM_BODY .. id .. '\\",'
  if string.sub(text, 1, #body) ~= body then return '' end
  local unit, place = id, inbox_place(id)
  if not place[3] then
    -- Another source may use the same id. See `identity` in choreo/events/ids.py.
    local source = string.match(text, '^\\"source\\":\\"([^"\\%%#]+)\\",', #body + 1)
    if not source then return '' end
    unit = 'event:' .. source .. '#' .. id
    place = inbox_place(unit)
  end
  if inbox_has(base .. 'done:', place, retention, ms) then return 'done' end

  local key, attempt = base .. 'unit:' .. unit, tonumber(retries) + 1
  local state = redis.call('HMGET', key, 'settled', 'token', 'until', 'deliveries', 'inflight', 'done')
  if state[6] or tonumber(state[1] or 0) >= attempt then return 'done' end
  if state[3] or state[4] then return '' end
  if state[2] and redis.call('HEXISTS', state[5], state[2]) == 1 then return '' end
  if string.find(text, '"redelivered": true', from, true) or string.find(text, '"x-delivery-count"', from, true) then
    return ''
  end
  redis.call('HSET', key, 'token', tag, 'inflight', inflight)
  redis.call('PEXPIRE', key, retention)
  return string.format('%d %s', attempt, unit)
end
