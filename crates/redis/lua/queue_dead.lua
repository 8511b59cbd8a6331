-- Names messages that are, or may be, dead letters; each again after a time, should nothing come
-- of it.
--
-- KEYS: dead
-- ARGV: how many, ms after which one is named again
-- Answers "id destination" of each
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local named = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, letter in ipairs(named) do
  redis.call('ZADD', KEYS[1], now + ARGV[2], letter)
end
return named
