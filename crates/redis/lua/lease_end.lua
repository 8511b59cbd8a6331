-- Gives owners up for dead; what they hold is removed by the reapers.
-- KEYS: leases, dead owners, changes. ARGV: in how many milliseconds, then the owners.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for at = 2, #ARGV do
  redis.call('ZREM', KEYS[1], ARGV[at])
  redis.call('ZADD', KEYS[2], 'NX', now + ARGV[1], ARGV[at])
  note_change(KEYS[3], now, ARGV[at])
end
return #ARGV - 1
