-- Reads what a relay has not read of a history, or what is left of it. It writes nothing.
--
-- KEYS   hash and list of the history; meta.lua says what they hold
-- ARGV   1 epoch and offset, 8 bytes each, after which to read; or "" for all that is there
--        2 most entries   3 bytes after which no further entry is added
--
-- Returns nothing where there is no history; or
--   1 the top, epoch and offset in 8 bytes each
--   2 the offset after which the entries follow
--   3 "forked" where the epoch that was asked for ended earlier, and the content up to that place
--     is known to be the same; "epoch" where it is not known at all; or ""
--   4 how many publications between the position and the first entry are gone
--   5 for how many milliseconds the history is kept still, if nothing is published
--   and then the entries, oldest first
local state = redis.call('HMGET', KEYS[1], 'e', 'o', 'f')
if not state[1] then
  return {}
end
local epoch, top, forks = state[1], tonumber(state[2]), state[3] or ''
local length = redis.call('LLEN', KEYS[2])
local before_oldest = top - length
local after, verdict, lost = before_oldest, '', 0

if ARGV[1] ~= '' then
  local asked = string.sub(ARGV[1], 1, 8)
  local agrees = asked == epoch and top or -1
  for at = 1, #forks, 16 do
    if string.sub(forks, at, at + 7) == asked then
      agrees = struct.unpack('<I8', forks, at + 8)
    end
  end
  if agrees < 0 then
    verdict = 'epoch'
  else
    after = struct.unpack('<I8', ARGV[1], 9)
    if after > agrees then
      after, verdict = agrees, 'forked'
    end
    if after < before_oldest then
      lost = before_oldest - after
      after = before_oldest
    end
  end
end

local kept = math.max(redis.call('PTTL', KEYS[2]), 0)
local page = {
  epoch .. struct.pack('<I8', top), tostring(after), verdict, tostring(lost), tostring(kept),
}
local entries_max, bytes_max = tonumber(ARGV[2]), tonumber(ARGV[3])
local CHUNK = 16
local bytes, first, wanted = 0, after - before_oldest, math.min(top - after, entries_max)
for from = 0, wanted - 1, CHUNK do
  local to = math.min(from + CHUNK, wanted) - 1
  for _, entry in ipairs(redis.call('LRANGE', KEYS[2], first + from, first + to)) do
    bytes = bytes + #entry
    if bytes > bytes_max and #page > 5 then
      return page
    end
    page[#page + 1] = entry
  end
end
return page
