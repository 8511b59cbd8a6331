-- Removes a dead owner from the destinations that it occupied.
-- KEYS: index of the owner's destinations, events, then each destination.
-- ARGV: owner, length of the event stream (0: no events), time, then each destination.
local owner, length, time = ARGV[1], ARGV[2], ARGV[3]
for at = 3, #KEYS do
  local destination = ARGV[at + 1]
  if redis.call('SREM', KEYS[at], owner) == 1 and redis.call('SCARD', KEYS[at]) == 0
    and length ~= '0' then
    redis.call('XADD', KEYS[2], 'MAXLEN', '~', length, '*', 'type', 'vacated', 'at', time,
      'node', owner, 'destination', destination, 'reason', 'node_lost')
  end
  redis.call('SREM', KEYS[1], destination)
end
return #KEYS - 2
