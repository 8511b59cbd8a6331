-- What the scripts share that change who has a lease or is dead: the order of these changes, by
-- which a node is told only of those that it does not know.

-- Puts an owner's newest change at the end: behind all others, and by the time also behind those
-- that a Redis knew that has lost its data. The oldest are cut off.
local function note_change(changes, now, owner)
  local newest = redis.call('ZREVRANGE', changes, 0, 0, 'WITHSCORES')[2]
  redis.call('ZADD', changes, math.max(now, (tonumber(newest) or 0) + 1), owner)
  redis.call('ZREMRANGEBYRANK', changes, 0, -4097)
end
