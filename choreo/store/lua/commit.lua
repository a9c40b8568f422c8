-- Settle a claim: everything that follows from it is recorded here, or nothing is.
--
-- KEYS, ARGV            see settle.lua
-- Returns               {'ok' | 'already' | 'stale' | 'lost'}

return {settle()}
