-- Forgets a dead owner that holds nothing any more, unless it died again meanwhile.
-- KEYS: dead owners, claims, descriptions, changes. ARGV: owner, time of death.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local died = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not died or tonumber(died) ~= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
note_change(KEYS[4], now, ARGV[1])
return 1
