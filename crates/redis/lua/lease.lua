-- Renews a node's lease, or takes one under a new owner, and lists all nodes.
-- KEYS: leases (owner by deadline), dead owners (by time of death), descriptions (owner to text).
-- ARGV: owner, milliseconds, description, "take" or "renew", the owner that is given up or "".
-- Answers nothing where the owner is dead already, else: now, leases, dead owners, descriptions.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local lasts = tonumber(ARGV[2])
if ARGV[4] == 'take' then
  if redis.call('ZSCORE', KEYS[2], ARGV[1]) then
    return {}
  end
  if ARGV[5] ~= '' then
    redis.call('ZREM', KEYS[1], ARGV[5])
    local died = redis.call('ZSCORE', KEYS[2], ARGV[5])
    if not died then
      -- Time to enter everything again, so that only what is not so any more is reaped.
      redis.call('ZADD', KEYS[2], now + lasts, ARGV[5])
    elseif tonumber(died) <= now then
      -- It was reaped already, and may have written since without knowing.
      redis.call('ZADD', KEYS[2], now, ARGV[5])
    end
  end
elseif not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return {}
end
redis.call('ZADD', KEYS[1], now + lasts, ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
return {
  now,
  redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'),
  redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES'),
  redis.call('HGETALL', KEYS[3]),
}
