-- Reads a destination's history as of one moment.
--
-- It follows meta.lua, which says what the keys hold.
--
-- KEYS   hash and list of the history
-- ARGV   1 master's replication id   2 epoch to take if one begins   3 size   4 ttl, ms
--        5 most entries   6 bytes after which no further entry is added
--        7 how many of the newest; or empty, and 8 epoch and 9 offset after which to read
--
-- Returns the top (epoch and offset in 8 bytes each), then `epoch_changed`, `too_old` or nothing,
-- then the entries, oldest first.

local meta, list = KEYS[1], KEYS[2]
local size, ttl = tonumber(ARGV[3]), tonumber(ARGV[4])
local entries_max, bytes_max = tonumber(ARGV[5]), tonumber(ARGV[6])

-- A reader has a position before the first publication, and until long after the last.
local epoch = current_epoch(meta, list, ARGV[1], ARGV[2])
local state = call('HMGET', meta, 'o', 'f')
local top, forks = tonumber(state[1]), state[2] or ''
local length = call('LLEN', list)
local kept = math.min(length, size)

-- Anybody may ask for a name, so what was never published to is not kept for a day.
local keep_meta = top == 0 and math.max(ttl, 120000) or ttl + DAY_MS
if call('PTTL', meta) < keep_meta / 2 then
  call('PEXPIRE', meta, keep_meta)
end

-- Up to which offset the epoch `asked` and the present content agree; -1 if it is not known.
local function agrees_up_to(asked)
  if asked == epoch then
    return top
  end
  for at = 1, #forks, 16 do
    if string.sub(forks, at, at + 7) == asked then
      return (struct.unpack('<I8', forks, at + 8))
    end
  end
  return -1
end

local page = { epoch .. struct.pack('<I8', top), '' }
-- How many of the newest come into question.
local rest
if ARGV[7] ~= '' then
  rest = math.min(tonumber(ARGV[7]), kept)
else
  local after = tonumber(ARGV[9])
  rest = top - after
  if after > agrees_up_to(ARGV[8]) then
    page[2] = 'epoch_changed'
    return page
  elseif rest > kept then
    page[2] = 'too_old'
    return page
  end
end

local CHUNK = 16
local bytes, first, wanted = 0, length - rest, math.min(rest, entries_max)
for from = 0, wanted - 1, CHUNK do
  local to = math.min(from + CHUNK, wanted) - 1
  local chunk = call('LRANGE', list, first + from, first + to)
  for _, entry in ipairs(chunk) do
    bytes = bytes + #entry
    if bytes > bytes_max and #page > 2 then
      return page
    end
    page[#page + 1] = entry
  end
end
return page
