-- Settle several claims of one handler in one step. Each is recorded as a whole, or not at all.
--
-- KEYS, ARGV: see settle.lua; the claims begin at ARGV[3], one after the other. The first may have no token: see there
-- Returns: for each claim with a token 'ok' | 'already' | 'stale' | 'lost' | the text of an error, after which nothing
--     of that claim is settled
--!include redis_client/inbox
--!include redis_client/now
--!include store/cabinet
--!include store/settle

-- Where the arguments of the next claim begin.
local function after(i)
  local _, _, _, _, at = shape(i)
  return at
end

local answers, i, any, shared = {}, 3, false, nil
if ARGV[i] == '' then shared, i = i, after(i) end
while i <= #ARGV do
  local fine, answer = pcall(settle, i)
  if not fine then answer = type(answer) == 'table' and answer.err or tostring(answer) end
  answers[#answers + 1], any, i = answer, any or answer == 'ok', after(i)
end
if shared and any then
  local _, _, scheduled = shape(shared)
  put_scheduled(shared + 6, scheduled, now_ms())
end
return answers
