-- Gives the lease of a relay back, if it is still the asker's.
-- KEYS: lease.
-- ARGV: who asks.
local owner = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) ')
if owner == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
