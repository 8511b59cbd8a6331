-- Sees to it that a dead owner enters nothing any more, and lists some of what it holds.
-- KEYS: calls of its process, index of its sessions, index of its destinations.
-- ARGV: its generation, how many of each.
local before = tonumber(redis.call('HGET', KEYS[1], 'dead') or 0)
redis.call('HSET', KEYS[1], 'dead', math.max(before, tonumber(ARGV[1]) or 0))
redis.call('PEXPIRE', KEYS[1], 3600000)
return {
  redis.call('SRANDMEMBER', KEYS[2], ARGV[2]),
  redis.call('SRANDMEMBER', KEYS[3], ARGV[2]),
}
