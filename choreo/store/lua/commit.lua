-- Settle a claim: everything that follows from it is recorded here, or nothing is.
--
-- KEYS, ARGV 1          see settle.lua; ARGV 2.. is the claim
-- Returns               {'ok' | 'already' | 'stale' | 'lost'}
--!include redis_client/inbox
--!include store/settle

return {settle(2)}
