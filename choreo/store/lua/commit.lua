-- Settle a claim: the whole settlement is recorded, or nothing.
--
-- KEYS, ARGV: see settle.lua; the claim begins at ARGV[3]
-- Returns: {'ok' | 'already' | 'stale' | 'lost'}
--!include redis_client/inbox
--!include redis_client/now
--!include store/cabinet
--!include store/settle

return {settle(3)}
