-- Stores a message in a queue, and wakes the nodes if one of them waits for it.
--
-- The channel is no key, and there is no key without an idempotency key: while a slot is moving,
-- a script is only executed where all its keys are.
--
-- KEYS: stream, hungry, and the idempotency key if there is one
-- ARGV: envelope, the most messages, ms until an unused queue expires, PUBLISH or SPUBLISH, wake,
--       channel, id of the publication and digest of its content, both in hex, ms for which the key
--       is remembered
-- Answers {0}: stored; {1}: full; {2, id and digest}: published before under this key
local stream, hungry, key = KEYS[1], KEYS[2], KEYS[3]
if key then
  local first = redis.call('GET', key)
  if first then
    return {2, first}
  end
end
local length = redis.call('XLEN', stream)
if length >= tonumber(ARGV[2]) then
  return {1}
end
-- A queue with nothing in it has no stream.
local is_new = length == 0 and redis.call('EXISTS', stream) == 0
redis.call('XADD', stream, '*', 'e', ARGV[1])
if is_new then
  redis.call('XGROUP', 'CREATE', stream, 'fl', '0')
end
redis.call('PEXPIRE', stream, ARGV[3])
if key then
  redis.call('SET', key, ARGV[7], 'PX', ARGV[8])
end
if redis.call('DEL', hungry) == 1 then
  redis.call(ARGV[4], ARGV[6], ARGV[5])
end
return {0}
