-- Report that a program of a service lives, or ends; forget the programs that nobody need know of any more.
--
-- The keys are forgotten when no program has reported for as long as ARGV[9] says.
--
-- KEYS[1] programs      hash: program -> until, seen, node, digest and its record as JSON, one per line
-- KEYS[2] descriptions  hash: digest -> description as JSON
-- KEYS[3] announced     hash: event type -> ms at which a program began to announce it outside of handlers
-- ARGV[1] program       ARGV[2] ms for which it counts as alive from now on; 0: it ends, or only publishes
-- ARGV[3] node          ARGV[4] record; "": the one that is there
-- ARGV[5] digest        ARGV[6] description
-- ARGV[7] the most programs to remember after their end     ARGV[8] the most types     ARGV[9] ms for which one is kept
-- ARGV[10..] types that it has begun to announce outside of handlers
-- Returns: the number of programs that are remembered.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stamp = string.format('%.0f', now)
local name, ttl = ARGV[1], tonumber(ARGV[2])

local function read(text)
  local until_ms, seen, node, digest, record = string.match(text, '^(%d+)\n(%d+)\n([^\n]*)\n([^\n]*)\n(.*)$')
  -- Any program can write here. What cannot be read is forgotten with the programs that are gone.
  if not until_ms then return {alive = false, seen = 0, node = '', digest = '', record = ''} end
  return {alive = tonumber(until_ms) > now, seen = tonumber(seen), node = node, digest = digest, record = record}
end

local function write(until_ms, node, digest, record)
  local text = table.concat({string.format('%.0f', until_ms), stamp, node, digest, record}, '\n')
  redis.call('HSET', KEYS[1], name, text)
end

if ARGV[4] ~= '' then
  write(now + ttl, ARGV[3], ARGV[5], ARGV[4])
  redis.call('HSET', KEYS[2], ARGV[5], ARGV[6])
else
  local known = redis.call('HGET', KEYS[1], name)
  if known then
    local before = read(known)
    write(now + ttl, before.node, before.digest, before.record)
  end
end

-- A node whose next program lives needs no record of the last one.
local kept, digests, gone, lives = 0, {}, {}, {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local program = read(all[i + 1])
  program.name = all[i]
  if program.alive then
    kept = kept + 1
    lives[program.node] = true
    digests[program.digest] = true
  else
    gone[#gone + 1] = program
  end
end
table.sort(gone, function(a, b) return a.seen > b.seen or (a.seen == b.seen and a.name > b.name) end)
local remembered = 0
for _, program in ipairs(gone) do
  if lives[program.node] or remembered >= tonumber(ARGV[7]) then
    redis.call('HDEL', KEYS[1], program.name)
  else
    lives[program.node] = true
    remembered = remembered + 1
    digests[program.digest] = true
  end
end
for _, digest in ipairs(redis.call('HKEYS', KEYS[2])) do
  if not digests[digest] then redis.call('HDEL', KEYS[2], digest) end
end

if #ARGV >= 10 then
  local types = redis.call('HGETALL', KEYS[3])
  for i = 1, #types, 2 do
    if (tonumber(types[i + 1]) or 0) + tonumber(ARGV[9]) <= now then redis.call('HDEL', KEYS[3], types[i]) end
  end
  for i = 10, #ARGV do
    if redis.call('HLEN', KEYS[3]) < tonumber(ARGV[8]) or redis.call('HEXISTS', KEYS[3], ARGV[i]) == 1 then
      redis.call('HSET', KEYS[3], ARGV[i], stamp)
    end
  end
end
for i = 1, 3 do redis.call('PEXPIRE', KEYS[i], ARGV[9]) end
return kept + remembered
