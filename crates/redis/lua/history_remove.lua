-- Removes what is kept of a destination, and tells whoever receives its channel.
--
-- It follows meta.lua, which says what the keys hold. The hash stays: offsets go on, so that who
-- has had all that there was misses nothing, and any earlier position is too old.
--
-- KEYS   hash and list of the history
-- ARGV   1 PUBLISH or SPUBLISH   2 channel   3 envelope that tells of it
--        4 master's replication id   5 epoch to take if one begins   6 ttl, ms
--
-- Returns the position up to which it was removed, epoch and offset in 8 bytes each, then how many
-- publications there were.

local meta, list, ttl = KEYS[1], KEYS[2], tonumber(ARGV[6])
local epoch = current_epoch(meta, list, ARGV[4], ARGV[5])
local top = tonumber(call('HGET', meta, 'o'))
local removed = call('LLEN', list)
call('DEL', list)
local keep_meta = top == 0 and math.max(ttl, 120000) or ttl + DAY_MS
if call('PTTL', meta) < keep_meta / 2 then
  call('PEXPIRE', meta, keep_meta)
end
local position = epoch .. struct.pack('<I8', top)
call(ARGV[1], ARGV[2], '\2' .. position .. ARGV[3])
return { position, removed }
