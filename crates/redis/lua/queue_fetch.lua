-- Takes messages from a queue: released ones first, then those that somebody has held for too
-- long, then new ones. When there are fewer than wanted, the next message wakes the nodes.
--
-- KEYS: stream, released, state, hungry, what the node holds, dead
-- ARGV: consumer, how many, ms after which what is held is claimed, ms between two looks for
--       that, ms until an unused queue expires, ms for which to remember who waits, destination,
--       deliveries after which a message is dead
-- Answers {{id, how often delivered, envelope}, ...}; an entry that is not ours has envelope ''
local stream, released, state, hungry = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local consumer, wanted, claim_after = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local taken = {}

local function take(entries, is_new)
  for _, entry in ipairs(entries) do
    if entry and entry[2] then
      local count = 1
      if not is_new then
        count = redis.call('XPENDING', stream, 'fl', entry[1], entry[1], 1)[1][4]
      end
      taken[#taken + 1] = {entry[1], count, entry[2][1] == 'e' and entry[2][2] or ''}
    end
  end
end

local function take_released()
  local ids = {}
  for at, word in ipairs(redis.call('ZPOPMIN', released, wanted)) do
    if at % 2 == 1 then
      ids[#ids + 1] = word
    end
  end
  if #ids > 0 then
    take(redis.call('XCLAIM', stream, 'fl', consumer, 0, unpack(ids)))
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
      'COUNT', wanted - #taken)
    from = claimed[1]
    for _, entry in ipairs(claimed[2]) do
      if entry then
        redis.call('ZREM', released, entry[1])
      end
    end
    take(claimed[2])
    if from == '0-0' or #taken >= wanted then
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
  if #taken < wanted then
    take_idle()
  end
  if #taken < wanted then
    local read = redis.call('XREADGROUP', 'GROUP', 'fl', consumer, 'COUNT', wanted - #taken,
      'STREAMS', stream, '>')
    if read then
      take(read[1][2], true)
    end
  end
end
if #taken < wanted then
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
return taken
