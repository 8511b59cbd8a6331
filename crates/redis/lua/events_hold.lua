-- Takes or keeps a stream of events for one of the nodes that read it together.
-- KEYS: who has it. ARGV: who asks, milliseconds.
-- Answers 1 if the asker has it now, else 0.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
