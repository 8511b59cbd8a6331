-- Takes from a dead node what it holds of one queue: a part of it at a time. It goes to the next
-- generation of the node, if that lives, as its consumers have it still; else to anybody.
--
-- The channel is no key, and there is no key of an heir without one: while a slot is moving, a
-- script is only executed where all its keys are.
--
-- KEYS: what the node holds, stream, released, hungry, dead, and what the heir holds if there is one
-- ARGV: consumer, heir or '', destination, how many, PUBLISH or SPUBLISH, wake, channel
-- Answers how many messages it took
local stream, released = KEYS[2], KEYS[3]
local consumer, heir, destination, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
if redis.call('EXISTS', stream) == 0 then
  redis.call('SREM', KEYS[1], destination)
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = redis.call('XPENDING', stream, 'fl', '-', '+', most, consumer)
for _, one in ipairs(held) do
  local id, idle, count = one[1], one[3], one[4]
  if heir ~= '' then
    redis.call('XCLAIM', stream, 'fl', heir, 0, id, 'IDLE', idle, 'RETRYCOUNT', count, 'JUSTID')
    redis.call('SADD', KEYS[6], destination)
  else
    redis.call('XCLAIM', stream, 'fl', '-', 0, id, 'RETRYCOUNT', count, 'JUSTID')
    local ms, seq = string.match(id, '^(%d+)-(%d+)$')
    redis.call('ZADD', released, ms * 1000 + math.min(seq, 999), id)
    -- Perhaps; whoever takes it for that looks.
    redis.call('ZADD', KEYS[5], now, id .. ' ' .. destination)
  end
end
if #held < most then
  redis.call('XGROUP', 'DELCONSUMER', stream, 'fl', consumer)
  redis.call('SREM', KEYS[1], destination)
end
if #held > 0 and heir == '' then
  redis.call('PEXPIRE', released, math.max(redis.call('PTTL', stream), 1))
  if redis.call('DEL', KEYS[4]) == 1 then
    redis.call(ARGV[5], ARGV[7], ARGV[6])
  end
end
return #held
