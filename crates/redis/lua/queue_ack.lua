-- Removes messages from a queue for good; a queue with nothing in it takes no room.
--
-- KEYS: stream, released, state, what the node holds, dead
-- ARGV: consumer, destination, then ids
local stream = KEYS[1]
local ids = {unpack(ARGV, 3)}
redis.call('XACK', stream, 'fl', unpack(ids))
redis.call('XDEL', stream, unpack(ids))
redis.call('ZREM', KEYS[2], unpack(ids))
if redis.call('EXISTS', KEYS[5]) == 1 then
  local letters = {}
  for at, id in ipairs(ids) do
    letters[at] = id .. ' ' .. ARGV[2]
  end
  redis.call('ZREM', KEYS[5], unpack(letters))
end
if redis.call('XLEN', stream) == 0 then
  redis.call('DEL', stream, KEYS[2], KEYS[3])
  redis.call('SREM', KEYS[4], ARGV[2])
elseif #redis.call('XPENDING', stream, 'fl', '-', '+', 1, ARGV[1]) == 0 then
  redis.call('SREM', KEYS[4], ARGV[2])
end
return 0
