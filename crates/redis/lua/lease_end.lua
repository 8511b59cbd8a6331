-- Gives owners up for dead; what they hold is removed by the reapers.
-- KEYS: leases, dead owners. ARGV: the owners.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for _, owner in ipairs(ARGV) do
  redis.call('ZREM', KEYS[1], owner)
  redis.call('ZADD', KEYS[2], now, owner)
end
return #ARGV
