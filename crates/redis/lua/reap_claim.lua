-- Gives up for dead who let their lease expire, and claims dead owners for one reaper.
-- KEYS: leases, dead owners, claims (owner to "deadline reaper"), changes.
-- ARGV: reaper, milliseconds of a claim, the most owners.
-- Answers pairs: owner, and its time of death if it may be forgotten once it holds nothing, else 0.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local most = tonumber(ARGV[3])
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', '(' .. now, 'LIMIT', 0, most)
for _, owner in ipairs(expired) do
  redis.call('ZREM', KEYS[1], owner)
  redis.call('ZADD', KEYS[2], now, owner)
  note_change(KEYS[4], now, owner)
end
local claimed = {}
local dead = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'WITHSCORES')
for at = 1, #dead, 2 do
  if #claimed >= 2 * most then
    break
  end
  local owner, died = dead[at], tonumber(dead[at + 1])
  local held = redis.call('HGET', KEYS[3], owner)
  local deadline, reaper = string.match(held or '0 ', '^(%d+) (.*)$')
  if reaper == ARGV[1] or tonumber(deadline) <= now then
    redis.call('HSET', KEYS[3], owner, string.format('%d %s', now + ARGV[2], ARGV[1]))
    claimed[#claimed + 1] = owner
    -- What it sent before it knew of its death has arrived or failed by then.
    claimed[#claimed + 1] = (now - died >= tonumber(ARGV[2])) and died or 0
  end
end
return claimed
