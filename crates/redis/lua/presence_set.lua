-- Sets how many sessions of some members one node has, and notes who comes and goes by it.
-- Counts are absolute, so that a call may be repeated: joining, leaving, entering again after a
-- loss and reaping are all this one step.
-- KEYS: what the owner has entered, calls of the caller's process, what the caller has entered;
--   then for each place: its members (to their sessions), its changes (member to whether it was
--   there).
-- ARGV: the most changes kept per place, the caller's generation, number of the call, or 0 from a
--   reaper; then for each place the beginning of its entries' names; then for each item: the number
--   of its place, the member, its sessions.
--   An item without a member takes over what its place has not told yet.
-- Answers the numbers of the places that have changes to be told; 0: it is too late.
local most, generation, number = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

-- A call that its node has given up may still be on its way, on a connection that is broken on the
-- node's side only. It must not undo what was called since, nor enter anything for the dead. A
-- reaper's sets to nothing what nobody enters any more, so those need no order.
local before = redis.call('HMGET', KEYS[2], 'last', 'dead')
if tonumber(before[2] or 0) >= generation then
  return 0
end
if number > 0 then
  if tonumber(before[1] or 0) >= number then
    return 0
  end
  redis.call('HSET', KEYS[2], 'last', number)
  redis.call('PEXPIRE', KEYS[2], 3600000)
end

local places = (#KEYS - 3) / 2
local changed, answer = {}, {}

local function note(place, member, is_there)
  local changes = KEYS[3 + 2 * place]
  local before = redis.call('HGET', changes, member)
  if not before then
    if redis.call('HLEN', changes) < most then
      redis.call('HSET', changes, member, is_there and '0' or '1')
    else
      redis.call('HSET', changes, '!', '')
    end
  elseif (before == '1') == is_there then
    redis.call('HDEL', changes, member)
  end
end

local function tell(place)
  if not changed[place] then
    changed[place] = true
    answer[#answer + 1] = place
    -- Whoever reaps the caller finds by it that there was something left to tell.
    redis.call('HSET', KEYS[3], ARGV[3 + place], '')
  end
end

for at = 4 + places, #ARGV, 3 do
  local place, member = tonumber(ARGV[at]), ARGV[at + 1]
  local entry = ARGV[3 + place] .. member
  if member == '' then
    redis.call('HDEL', KEYS[1], entry)
    tell(place)
  else
    local sessions = tonumber(ARGV[at + 2])
    local more = sessions - tonumber(redis.call('HGET', KEYS[1], entry) or 0)
    if more ~= 0 then
      if sessions == 0 then
        redis.call('HDEL', KEYS[1], entry)
      else
        redis.call('HSET', KEYS[1], entry, sessions)
      end
      local members = KEYS[2 + 2 * place]
      local total = redis.call('HINCRBY', members, member, more)
      if total <= 0 then
        redis.call('HDEL', members, member)
      end
      if (total > 0) ~= (total - more > 0) then
        note(place, member, total > 0)
        tell(place)
      end
    end
  end
end
return answer
