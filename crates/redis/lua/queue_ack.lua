-- Removes messages from a queue for good; a queue with nothing in it takes no room.
--
-- KEYS: stream, released, state
-- ARGV: ids
redis.call('XACK', KEYS[1], 'fl', unpack(ARGV))
redis.call('XDEL', KEYS[1], unpack(ARGV))
redis.call('ZREM', KEYS[2], unpack(ARGV))
if redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
end
return 0
