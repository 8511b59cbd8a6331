-- Sees to it that a dead owner enters nothing any more.
-- KEYS: calls of its process. ARGV: its generation.
local before = tonumber(redis.call('HGET', KEYS[1], 'dead') or 0)
redis.call('HSET', KEYS[1], 'dead', math.max(before, tonumber(ARGV[1]) or 0))
return redis.call('PEXPIRE', KEYS[1], 3600000)
