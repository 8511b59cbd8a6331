-- Stores what is revoked, for every node to read; or nothing where there is no room for all of it.
--
-- KEYS   1 state: e epoch, n the newest number   2 by what is revoked: `issued|until`
--        3 what is revoked, by number   4 the same, by the time at which it is over
-- ARGV   1 epoch to take if one begins   2 the most that may be stored, then three per revocation:
--        what, issued until when (Unix s; 0 for a token), until when it counts (Unix ms)
--
-- Returns 1, or 0 where there is no room.

local call = redis.call
local time = call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for _, over in ipairs(call('ZRANGEBYSCORE', KEYS[4], '-inf', now, 'LIMIT', 0, 1000)) do
  call('HDEL', KEYS[2], over)
  call('ZREM', KEYS[3], over)
  call('ZREM', KEYS[4], over)
end

local count = call('ZCARD', KEYS[4])
for at = 3, #ARGV, 3 do
  if call('HEXISTS', KEYS[2], ARGV[at]) == 0 then
    count = count + 1
  end
end
if count > tonumber(ARGV[2]) then
  return 0
end

if call('HEXISTS', KEYS[1], 'e') == 0 then
  call('HSET', KEYS[1], 'e', ARGV[1], 'n', 0)
end
for at = 3, #ARGV, 3 do
  local what, issued, till = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local known = call('HGET', KEYS[2], what)
  if known then
    -- Whatever reaches further counts.
    local known_issued, known_till = string.match(known, '^(%d+)|(%d+)$')
    issued = tonumber(known_issued) > tonumber(issued) and known_issued or issued
    till = tonumber(known_till) > tonumber(till) and known_till or till
  end
  local value = issued .. '|' .. till
  if value ~= known then
    call('HSET', KEYS[2], what, value)
    call('ZADD', KEYS[3], call('HINCRBY', KEYS[1], 'n', 1), what)
    call('ZADD', KEYS[4], till, what)
  end
end
local last = call('ZRANGE', KEYS[4], -1, -1, 'WITHSCORES')[2]
if last then
  for _, key in ipairs(KEYS) do
    call('PEXPIREAT', key, string.format('%.0f', tonumber(last) + 60000))
  end
end
return 1
