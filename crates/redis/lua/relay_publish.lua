-- Publishes what a relay has read, and moves its position in the source along: both or neither.
--
-- It follows meta.lua, which says what a history's keys hold.
--
-- KEYS   1 and 2 hash and list of the history   3 position in the source   4 fence of the partition
-- ARGV   1 PUBLISH or SPUBLISH   2 channel   3 master's replication id   4 epoch to take if one
--        begins   5 size   6 ttl, ms   7 token of the relay's lease   8 the position that the relay
--        believes is here, or ""   9 the position after this   10 for how long to keep it, ms
--        11... envelopes; none where the position only moves
--
-- Returns `P` and how many went to the history only, because the channel was refused; or `F`, where
-- a relay with a newer token has been here; or `X` and the position that is here in truth.

local meta, list, place, fence = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local size, ttl = tonumber(ARGV[5]), tonumber(ARGV[6])
local keep = tonumber(ARGV[10])

local newest, token = tonumber(call('GET', fence) or 0), tonumber(ARGV[7])
if newest > token then
  return 'F'
end
local here = call('GET', place) or ''
if here ~= ARGV[8] then
  return 'X' .. here
end
if newest < token then
  call('SET', fence, ARGV[7], 'PX', keep)
end
-- The position first: where it can't be written, nothing has been published.
call('SET', place, ARGV[9], 'PX', keep)
if #ARGV == 10 then
  return 'P0'
end

local epoch = current_epoch(meta, list, ARGV[3], ARGV[4])
local refused, length = 0, 0
for at = 11, #ARGV do
  -- As publish.lua does it.
  local message = '\2' .. epoch .. struct.pack('<I8', call('HINCRBY', meta, 'o', 1)) .. ARGV[at]
  length = call('RPUSH', list, message)
  local published = redis.pcall(ARGV[1], ARGV[2], message)
  if type(published) == 'table' and published.err then
    refused = refused + 1
  end
end
if length > size + math.floor(size / 8) then
  call('LTRIM', list, length - size, -1)
end
if call('PTTL', list) < ttl then
  local expires_in = ttl + math.ceil(ttl / 8)
  call('PEXPIRE', list, expires_in)
  call('PEXPIRE', meta, expires_in + DAY_MS)
end
return 'P' .. refused
