-- Renews a node's lease, or takes one under a new owner, and tells of the other nodes: all of them,
-- or only whose lease or death has changed since a place in the order of all such changes.
-- KEYS: leases (owner by deadline), dead owners (by time of death), descriptions (owner to text),
--       changes (owner by the place of its last change).
-- ARGV: owner, milliseconds, description, "take" or "renew", the owner that is given up or "", the
--       place up to which changes are known, or "" to be told everything.
-- Answers nothing where the owner is dead already, else now, the place that is known from here on,
-- and then either leases, dead owners and descriptions; or whose lease has run out, and of each
-- that has changed: owner, deadline of its lease or "", time of death or "", description or "".
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
    note_change(KEYS[4], now, ARGV[5])
  end
  note_change(KEYS[4], now, ARGV[1])
elseif not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return {}
end
redis.call('ZADD', KEYS[1], now + lasts, ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
local oldest = redis.call('ZRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2]
local newest = redis.call('ZREVRANGE', KEYS[4], 0, 0, 'WITHSCORES')[2] or ''
local known = tonumber(ARGV[6])
local owners
-- What is older than the oldest may have been cut off, and a newer one is of a lost Redis.
if known and oldest and known >= tonumber(oldest) and known <= tonumber(newest) then
  owners = redis.call('ZRANGEBYSCORE', KEYS[4], '(' .. ARGV[6], '+inf')
end
-- A change takes as long to tell as two nodes do in a list.
if not owners or #owners > redis.call('ZCARD', KEYS[1]) / 2 then
  return {
    now,
    newest,
    redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES'),
    redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES'),
    redis.call('HGETALL', KEYS[3]),
  }
end
local changes = {}
for _, owner in ipairs(owners) do
  changes[#changes + 1] = owner
  changes[#changes + 1] = redis.call('ZSCORE', KEYS[1], owner) or ''
  changes[#changes + 1] = redis.call('ZSCORE', KEYS[2], owner) or ''
  changes[#changes + 1] = redis.call('HGET', KEYS[3], owner) or ''
end
return { now, newest, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now), changes }
