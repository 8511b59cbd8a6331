-- Gives a stream of events up, if it is still the asker's.
-- KEYS: who has it. ARGV: who asks.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
