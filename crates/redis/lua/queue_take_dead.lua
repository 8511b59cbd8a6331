-- Takes messages from a queue that were delivered as often as they may be and that nobody has.
--
-- KEYS: stream, released, what the node holds, dead
-- ARGV: consumer, destination, deliveries after which a message is dead, ms after which what is
--       held is claimed, bytes after which no more are taken, then ids
-- Answers as queue_fetch.lua does
local stream, released, dead = KEYS[1], KEYS[2], KEYS[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local has_stream = redis.call('EXISTS', stream) == 1
local taken, bytes = {}, 0
for at = 6, #ARGV do
  local id = ARGV[at]
  local held = has_stream and redis.call('XPENDING', stream, 'fl', id, id, 1)[1]
  if held and held[4] >= tonumber(ARGV[3]) then
    if redis.call('ZREM', released, id) == 1 or held[3] >= tonumber(ARGV[4]) then
      local entry = redis.call('XCLAIM', stream, 'fl', ARGV[1], 0, id)[1]
      if entry and entry[2] then
        local envelope = entry[2][1] == 'e' and entry[2][2] or ''
        taken[#taken + 1] = {id, held[4] + 1, envelope}
        bytes = bytes + #envelope
      end
    end
    redis.call('ZADD', dead, now + ARGV[4], id .. ' ' .. ARGV[2])
  else
    redis.call('ZREM', dead, id .. ' ' .. ARGV[2])
  end
  if bytes >= tonumber(ARGV[5]) then
    -- The others are named again.
    break
  end
end
if #taken > 0 then
  redis.call('SADD', KEYS[3], ARGV[2])
end
return {0, taken}
