-- Carries out what one node enters, removes and records, in order.
-- KEYS: index of the owner's sessions, events, index of its destinations, calls of its process,
-- then one per operation.
-- ARGV: owner, sessions per user (0: any), "kick" or "reject", length of the event stream (0: no
-- events), number of the call, then seven per operation: code, time and up to five more.
-- Answers a list per operation, and at last how many events were recorded; or 0: it is too late.
local owner, most, when_full, length = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
local boot = string.match(owner, '^[^:]+')
local recorded = 0

-- A call that its node has given up may still be on its way, on a connection that is broken on the
-- node's side only. It must not undo what was called since, nor enter anything for the dead.
local generation = tonumber(string.match(owner, ':(%d+)$')) or 0
local before = redis.call('HMGET', KEYS[4], 'last', 'dead')
if tonumber(before[1] or 0) >= tonumber(ARGV[5]) or tonumber(before[2] or 0) >= generation then
  return 0
end
redis.call('HSET', KEYS[4], 'last', ARGV[5])
redis.call('PEXPIRE', KEYS[4], 3600000)

local function record(time, type, session, user, node, destination, reason)
  if length == '0' then
    return
  end
  local fields = { 'type', type, 'at', time, 'node', node }
  local more = { session = session, user = user, destination = destination, reason = reason }
  for name, value in pairs(more) do
    if value ~= '' then
      fields[#fields + 1] = name
      fields[#fields + 1] = value
    end
  end
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', length, '*', unpack(fields))
  recorded = recorded + 1
end

-- A session's value is `owner|handle|since|transport|protocol`. What one entry answers is bounded.
local GIVE_WAY_MAX = 32

local function oldest_first(key)
  local all = redis.call('HGETALL', key)
  local sessions = {}
  for at = 1, #all, 2 do
    local since = tonumber(string.match(all[at + 1], '^[^|]*|[^|]*|(%d+)')) or 0
    sessions[#sessions + 1] = { session = all[at], value = all[at + 1], since = since }
  end
  table.sort(sessions, function(a, b)
    if a.since ~= b.since then
      return a.since < b.since
    end
    return a.session < b.session
  end)
  return sessions
end

local operations = {}

-- The oldest sessions but one, as many as are too many; or some, if one is too many.
local function in_the_way(key, session)
  local others = {}
  for _, other in ipairs(oldest_first(key)) do
    if other.session ~= session then
      others[#others + 1] = other
    end
  end
  local excess = #others + 1 - most
  local listed = {}
  if excess > 0 then
    for at = 1, math.min(when_full == 'reject' and #others or excess, GIVE_WAY_MAX) do
      listed[#listed + 1] = others[at].session
      listed[#listed + 1] = others[at].value
    end
  end
  return listed
end

-- Enters a session. A repetition changes nothing and answers the same. Who has to give way stands
-- here until its own node has ended it.
function operations.enter(key, time, session, handle, since, user, limited)
  local value = owner .. '|' .. handle .. '|' .. since
  local before = redis.call('HGET', key, session)
  local answer = { 1 }
  if limited == '1' and most > 0 and redis.call('HLEN', key) >= most then
    local listed = in_the_way(key, session)
    if #listed > 0 and not before and when_full == 'reject' then
      return { 0, unpack(listed) }
    elseif when_full == 'kick' then
      answer = { 1, unpack(listed) }
    end
  end
  if before == value then
    return answer
  end
  redis.call('HSET', key, session, value)
  redis.call('SADD', KEYS[1], session .. ' ' .. user)
  -- Who goes on under the next generation was connected all the time.
  if not before then
    record(time, 'connected', session, user, owner, '', '')
  end
  return answer
end

-- Removes a session, whichever generation of this process entered it.
function operations.leave(key, time, session, user, reason)
  local value = redis.call('HGET', key, session)
  if value and string.match(value, '^[^:]+') == boot then
    redis.call('HDEL', key, session)
    record(time, 'disconnected', session, user, owner, '', reason)
  end
  redis.call('SREM', KEYS[1], session .. ' ' .. user)
  return { 1 }
end

function operations.record(_, time, type, session, user, destination)
  record(time, type, session, user, owner, destination, '')
  return { 1 }
end

-- The first subscription of this node to a destination, which may be the first of all.
function operations.occupy(key, time, destination)
  redis.call('SADD', KEYS[3], destination)
  if redis.call('SADD', key, owner) == 1 and redis.call('SCARD', key) == 1 then
    record(time, 'occupied', '', '', owner, destination, '')
  end
  return { 1 }
end

function operations.vacate(key, time, destination)
  redis.call('SREM', KEYS[3], destination)
  if redis.call('SREM', key, owner) == 1 and redis.call('SCARD', key) == 0 then
    record(time, 'vacated', '', '', owner, destination, '')
  end
  return { 1 }
end

local answers = {}
for at = 5, #KEYS do
  local first = 6 + (at - 5) * 7
  local run = operations[ARGV[first]]
  answers[#answers + 1] = run(KEYS[at], unpack(ARGV, first + 1, first + 6))
end
answers[#answers + 1] = recorded
return answers
