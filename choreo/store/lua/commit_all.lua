-- Settle several claims of one handler, each in one step: the whole settlement is recorded, or nothing.
--
-- KEYS, ARGV: see settle.lua; the claims follow each other from ARGV[3], without messages of their own
-- Returns: for each claim {'ok' | 'already' | 'stale' | 'lost'} | {'error', reason}
--!include redis_client/inbox
--!include redis_client/now
--!include store/cabinet
--!include store/settle

local answers, i = {}, 3
while i <= #ARGV do
  local _, _, _, _, next_claim = shape(i)
  local fine, answer = pcall(settle, i)
  if not fine then answers[#answers + 1] = {'error', type(answer) == 'table' and answer.err or tostring(answer)}
  else answers[#answers + 1] = {answer} end
  i = next_claim
end
return answers
