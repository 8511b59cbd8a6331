-- Removes sessions that a dead owner holds still; what others entered since stays.
-- KEYS: index of the owner's sessions, events, then where each session stands.
-- ARGV: owner, length of the event stream (0: no events), time, then session and user (or '') of each.
-- Answers how many were removed.
local owner, length, time = ARGV[1], ARGV[2], ARGV[3]
local removed = 0
for at = 3, #KEYS do
  local session, user = ARGV[at * 2 - 2], ARGV[at * 2 - 1]
  local value = redis.call('HGET', KEYS[at], session)
  if value and string.match(value, '^[^|]+') == owner then
    redis.call('HDEL', KEYS[at], session)
    removed = removed + 1
    if length ~= '0' then
      local whose = user ~= '' and { 'user', user } or {}
      redis.call('XADD', KEYS[2], 'MAXLEN', '~', length, '*', 'type', 'disconnected', 'at', time,
        'node', owner, 'session', session, 'reason', 'node_lost', unpack(whose))
    end
  end
  redis.call('SREM', KEYS[1], session .. ' ' .. user)
end
return removed
