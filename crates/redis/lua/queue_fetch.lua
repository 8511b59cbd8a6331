-- Takes messages from a queue: released ones first, then those that somebody has held for too
-- long, then new ones. When there are fewer than wanted, the next message wakes the nodes; not when
-- the rest is left because these are so large.
--
-- KEYS: stream, released, state, hungry, what the node holds, dead
-- ARGV: consumer, how many, ms after which what is held is claimed, ms between two looks for
--       that, ms until an unused queue expires, ms for which to remember who waits, destination,
--       deliveries after which a message is dead, bytes after which no more are taken
-- Answers {1 if there may be more, {{id, how often delivered, envelope}, ...}}; an entry that is
-- not ours has envelope ''
local stream, released, state, hungry = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local consumer, wanted, claim_after = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local bytes_max, taken, bytes = tonumber(ARGV[9]), {}, 0

local function has_room()
  return #taken < wanted and bytes < bytes_max
end

local function count_of(id)
  return redis.call('XPENDING', stream, 'fl', id, id, 1)[1][4]
end

local function take(entry, count)
  local envelope = entry[2][1] == 'e' and entry[2][2] or ''
  taken[#taken + 1] = {entry[1], count, envelope}
  bytes = bytes + #envelope
end

local function claim(id)
  local entry = redis.call('XCLAIM', stream, 'fl', consumer, 0, id)[1]
  if entry and entry[2] then
    take(entry, count_of(id))
  end
end

-- There is no room for what was found: it is nobody's, '-' is no node.
local function put_back(id, count)
  redis.call('XCLAIM', stream, 'fl', '-', 0, id, 'RETRYCOUNT', count, 'JUSTID')
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  redis.call('ZADD', released, ms * 1000 + math.min(seq, 999), id)
  redis.call('PEXPIRE', released, ARGV[5])
  if count >= tonumber(ARGV[8]) then
    local time = redis.call('TIME')
    redis.call('ZADD', KEYS[6], time[1] * 1000 + math.floor(time[2] / 1000), id .. ' ' .. ARGV[7])
  end
end

local function take_released()
  while has_room() do
    local id = redis.call('ZPOPMIN', released)[1]
    if not id then
      break
    end
    claim(id)
  end
end

-- A few at a time, as one knows only then how large they are.
local function take_new()
  while has_room() do
    local most = math.min(wanted - #taken, 8)
    local read = redis.call('XREADGROUP', 'GROUP', 'fl', consumer, 'COUNT', most,
      'STREAMS', stream, '>')
    local entries = read and read[1][2] or {}
    for _, entry in ipairs(entries) do
      if has_room() then
        take(entry, 1)
      else
        put_back(entry[1], 0)
      end
    end
    if #entries < most then
      break
    end
  end
end

-- Forgets nodes that are gone and hold nothing.
local function forget_consumers()
  for _, other in ipairs(redis.call('XINFO', 'CONSUMERS', stream, 'fl')) do
    local name, pending, idle = other[2], other[4], other[6]
    if pending == 0 and idle > 3600000 and name ~= consumer then
      redis.call('XGROUP', 'DELCONSUMER', stream, 'fl', name)
    end
  end
end

-- Looks at a part of what is held, from where the last look has ended.
local function take_idle()
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local due = tonumber(redis.call('HGET', state, 'due') or 0)
  -- More than one interval ahead, the clock has gone back.
  if now < due and due - now <= tonumber(ARGV[4]) then
    return
  end
  local from = redis.call('HGET', state, 'from') or '0-0'
  for _ = 1, 8 do
    -- Each looks at ten times COUNT at most.
    local claimed = redis.call('XAUTOCLAIM', stream, 'fl', consumer, claim_after, from,
      'COUNT', wanted - #taken, 'JUSTID')
    from = claimed[1]
    for _, id in ipairs(claimed[2]) do
      redis.call('ZREM', released, id)
      if has_room() then
        claim(id)
      else
        put_back(id, count_of(id))
      end
    end
    if from == '0-0' or not has_room() then
      break
    end
  end
  -- The next fetch goes on while there is more to look at.
  local again = from == '0-0' and now + tonumber(ARGV[4]) or 0
  redis.call('HSET', state, 'due', again, 'from', from)
  redis.call('PEXPIRE', state, ARGV[5])
  if from == '0-0' then
    forget_consumers()
  end
end

if redis.call('PEXPIRE', stream, ARGV[5]) == 1 then
  take_released()
  if has_room() then
    take_idle()
  end
  take_new()
end
if has_room() then
  redis.call('SET', hungry, '', 'PX', ARGV[6])
end
if #taken > 0 then
  redis.call('SADD', KEYS[5], ARGV[7])
  local time = redis.call('TIME')
  for _, one in ipairs(taken) do
    if one[2] > tonumber(ARGV[8]) then
      -- Should whoever moves it fail.
      local due = time[1] * 1000 + math.floor(time[2] / 1000) + claim_after
      redis.call('ZADD', KEYS[6], due, one[1] .. ' ' .. ARGV[7])
    end
  end
end
return {has_room() and 0 or 1, taken}
