-- Publishes once, keeps what is published, and says where: one round trip, one slot.
--
-- It follows meta.lua, which says what the keys hold.
--
-- KEYS   hash and list of the history, where one is kept; then the idempotency key, if any
-- ARGV   1 PUBLISH or SPUBLISH   2 channel   3 envelope
--        4 master's replication id   5 epoch to take if one begins   6 size   7 ttl, ms
--        8 publication's id   9 window of the idempotency key, ms   10 digest of the content
-- Where no history is kept, 4 to 7 are empty; without an idempotency key, 8 to 10 are missing. The
-- digest may be empty.
--
-- Returns `P` and the position, epoch and offset in 8 bytes each, which is empty where no history
-- is kept; or `D`, the id of the first publication with this key, its position and its digest.

local once = KEYS[3] or (#KEYS == 1 and KEYS[1])
if once then
  local first = call('GET', once)
  if first then
    return 'D' .. first
  end
end

local message, position = ARGV[3], ''
if #KEYS > 1 then
  local meta, list, size, ttl = KEYS[1], KEYS[2], tonumber(ARGV[6]), tonumber(ARGV[7])
  local epoch = current_epoch(meta, list, ARGV[4], ARGV[5])
  position = epoch .. struct.pack('<I8', call('HINCRBY', meta, 'o', 1))
  -- The envelope's version 2: stored and sent as the same bytes.
  message = '\2' .. position .. message
  -- Trimmed by an eighth at a time: each trim moves up to 8 KB. Readers keep to the size.
  local length = call('RPUSH', list, message)
  if length > size + math.floor(size / 8) then
    call('LTRIM', list, length - size, -1)
  end
  -- Two PEXPIRE cost a third of the whole, so they are done for an eighth of the ttl in advance.
  if call('PTTL', list) < ttl then
    local expires_in = ttl + math.ceil(ttl / 8)
    call('PEXPIRE', list, expires_in)
    call('PEXPIRE', meta, expires_in + DAY_MS)
  end
end

-- The key first: where it can't be written, nothing has been published. Where nothing is kept, it
-- must not outlive a refusal to publish, or who tries again would be told that it is done.
if once then
  call('SET', once, ARGV[8] .. position .. ARGV[10], 'PX', ARGV[9])
  if position == '' then
    local published = redis.pcall(ARGV[1], ARGV[2], message)
    if type(published) == 'table' and published.err then
      call('DEL', once)
      return published
    end
    return 'P'
  end
end
call(ARGV[1], ARGV[2], message)
return 'P' .. position
