-- Says which of many histories have changed. It writes nothing: a look must not keep them alive.
-- KEYS: hashes of histories, all of one partition; meta.lua says what they hold.
-- ARGV: of each the top that is known, epoch and offset in 8 bytes each, or "".
-- Answers the places in KEYS, from 1, of those whose top is another, and as negative numbers of
-- those that are gone.
local changed = {}
for at, meta in ipairs(KEYS) do
  local state = redis.call('HMGET', meta, 'e', 'o')
  if not state[1] then
    changed[#changed + 1] = -at
  elseif state[1] .. struct.pack('<I8', tonumber(state[2])) ~= ARGV[at] then
    changed[#changed + 1] = at
  end
end
return changed
