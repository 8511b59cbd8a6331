-- Takes or renews the lease of a relay; of all its processes, only who holds it relays.
-- KEYS: lease (owner and token), the newest token.
-- ARGV: who asks, milliseconds.
-- Answers the token under which the asker holds it, or else for how many milliseconds another does.
local held = redis.call('GET', KEYS[1])
local owner, token = string.match(held or '', '^(%S+) (%d+)$')
if owner == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return { 'ours', token }
elseif owner then
  return { 'theirs', tostring(redis.call('PTTL', KEYS[1])) }
end
-- By the clock, so that tokens grow on also where the newest one was lost.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local newest = tonumber(redis.call('GET', KEYS[2]) or 0)
token = string.format('%.0f', math.max(newest + 1, now))
redis.call('SET', KEYS[2], token)
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. token, 'PX', ARGV[2])
return { 'ours', token }
