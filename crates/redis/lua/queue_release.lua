-- Makes messages that a node holds available to anybody, and wakes the nodes if one of them waits.
-- What is by now somebody else's, or acknowledged, is left alone.
--
-- The channel is no key: while a slot is moving, a script is only executed where all its keys are.
--
-- KEYS: stream, released, hungry, what the node holds, dead
-- ARGV: consumer (the node's boot:generation), ms until an unused queue expires, PUBLISH or
--       SPUBLISH, wake, destination, deliveries after which a message is dead, channel, then for
--       each its id, how often it was delivered, and '1' if that delivery counts
local stream, released, hungry = KEYS[1], KEYS[2], KEYS[3]
local consumer = ARGV[1]
local boot = string.match(consumer, '^[^:]*')
if redis.call('EXISTS', stream) == 0 then
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local count = 0
for at = 8, #ARGV, 3 do
  local id, delivered = ARGV[at], tonumber(ARGV[at + 1])
  local held = redis.call('XPENDING', stream, 'fl', id, id, 1)[1]
  -- What a node fetched before it lost its lease is its own still.
  if held and string.match(held[2], '^[^:]*') == boot and held[4] == delivered then
    local counted = ARGV[at + 2] == '1' and delivered or delivered - 1
    -- From now on it is nobody's: '-' is no node.
    redis.call('XCLAIM', stream, 'fl', '-', 0, id, 'RETRYCOUNT', counted, 'JUSTID')
    local ms, seq = string.match(id, '^(%d+)-(%d+)$')
    -- In the order of publication, as far as a score can tell.
    redis.call('ZADD', released, ms * 1000 + math.min(seq, 999), id)
    if counted >= tonumber(ARGV[6]) then
      redis.call('ZADD', KEYS[5], now, id .. ' ' .. ARGV[5])
    end
    count = count + 1
  end
end
if #redis.call('XPENDING', stream, 'fl', '-', '+', 1, consumer) == 0 then
  redis.call('SREM', KEYS[4], ARGV[5])
end
if count > 0 then
  redis.call('PEXPIRE', released, ARGV[2])
  if redis.call('DEL', hungry) == 1 then
    redis.call(ARGV[3], ARGV[7], ARGV[4])
  end
end
return count
