-- Reads a destination's history as of one moment.
--
-- KEYS   hash and list of the history
-- ARGV   1 master's replication id   2 epoch to take if one begins   3 ttl, ms
--        4 most entries   5 bytes after which no further entry is added
--        6 how many of the newest; or empty, and 7 epoch and 8 offset after which to read
--
-- Returns the top (epoch and offset in 8 bytes each), then `epoch_changed`, `too_old` or nothing,
-- then the entries, oldest first.

local meta, list = KEYS[1], KEYS[2]
local ttl, entries_max, bytes_max = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

-- A reader has a position before the first publication, and until long after the last.
local epoch = current_epoch(meta, list, ARGV[1], ARGV[2])
local state = call('HMGET', meta, 'o', 'f')
local top, forks = tonumber(state[1]), state[2] or ''
local kept = call('LLEN', list)

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
local skip
if ARGV[6] ~= '' then
  skip = math.max(kept - tonumber(ARGV[6]), 0)
else
  local after = tonumber(ARGV[8])
  skip = kept - (top - after)
  if after > agrees_up_to(ARGV[7]) then
    page[2] = 'epoch_changed'
    return page
  elseif skip < 0 then
    page[2] = 'too_old'
    return page
  end
end

local CHUNK = 16
local bytes, wanted = 0, math.min(kept - skip, entries_max)
for from = 0, wanted - 1, CHUNK do
  local to = math.min(from + CHUNK, wanted) - 1
  local chunk = call('LRANGE', list, skip + from, skip + to)
  for _, entry in ipairs(chunk) do
    bytes = bytes + #entry
    if bytes > bytes_max and #page > 2 then
      return page
    end
    page[#page + 1] = entry
  end
end
return page
