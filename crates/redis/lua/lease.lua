-- Renews a node's lease, or takes one under a new owner, and lists all nodes.
-- KEYS: leases (owner by deadline), dead owners (by time of death), descriptions (owner to text).
-- ARGV: owner, milliseconds, description, "take" or "renew", the owner that is given up or "".
-- Answers nothing where the owner is dead already, else: now, leases, dead owners, descriptions.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if ARGV[4] == 'take' then
  if redis.call('ZSCORE', KEYS[2], ARGV[1]) then
    return {}
  end
  if ARGV[5] ~= '' then
    -- Again also where it was reaped before: it may have written since without knowing.
    redis.call('ZREM', KEYS[1], ARGV[5])
    redis.call('ZADD', KEYS[2], now, ARGV[5])
  end
elseif not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return {}
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
return {
  now,
  redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'),
  redis.call('ZRANGE', KEYS[2], 0, -1),
  redis.call('HGETALL', KEYS[3]),
}
