-- Reads what was revoked since a node last read. It writes nothing; revoke.lua says what the keys
-- hold.
--
-- KEYS   1 state   2 by what is revoked   3 what is revoked, by number
-- ARGV   1 the epoch that the node knows, or ""   2 the number up to which it has read
--        3 the most to return
--
-- Returns the epoch, which is empty where nothing was ever revoked, the newest number, and then of
-- each revocation: what, its value, its number. Where the epoch is another, from the first.

local call = redis.call
local state = call('HMGET', KEYS[1], 'e', 'n')
if not state[1] then
  return { '', '0' }
end
-- Where data was lost, the numbers begin lower again.
local goes_on = state[1] == ARGV[1] and tonumber(ARGV[2]) <= tonumber(state[2])
local after = goes_on and ARGV[2] or '0'
local page = { state[1], state[2] }
local found = call(
  'ZRANGEBYSCORE', KEYS[3], '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[3])
)
for at = 1, #found, 2 do
  page[#page + 1] = found[at]
  page[#page + 1] = call('HGET', KEYS[2], found[at]) or ''
  page[#page + 1] = found[at + 1]
end
return page
