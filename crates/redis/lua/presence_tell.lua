-- Publishes what has changed at a place since that was last told, whoever noted it. The count is
-- that of this very moment, so the last one published is right.
-- KEYS: the place's members, its changes, what the caller has entered, its channel.
-- ARGV: PUBLISH or SPUBLISH, the beginning of the place's entries' names, an envelope but for its
--   body, the most bytes of members in it.
-- Answers how many changes were told.
local changes = redis.call('HGETALL', KEYS[2])
if #changes == 0 then
  redis.call('HDEL', KEYS[3], ARGV[2])
  return 0
end
local joined, left, bytes, truncated = {}, {}, 0, false
for at = 1, #changes, 2 do
  local member, was_there = changes[at], changes[at + 1] == '1'
  if member == '!' then
    truncated = true
  else
    local list = was_there and left or joined
    local shown = '{}'
    if string.sub(member, 1, 1) == 'u' then
      shown = '{"user":' .. cjson.encode(string.sub(member, 2)) .. '}'
    end
    list[#list + 1] = shown
    bytes = bytes + #shown
  end
end
local rest = ''
truncated = truncated or bytes > tonumber(ARGV[4])
if truncated then
  joined, left, rest = {}, {}, ',"truncated":true'
end
local body = string.format(
  '{"joined":[%s],"left":[%s],"count":%d%s}',
  table.concat(joined, ','), table.concat(left, ','), redis.call('HLEN', KEYS[1]), rest
)
redis.call(ARGV[1], KEYS[4], ARGV[3] .. body)
redis.call('DEL', KEYS[2])
redis.call('HDEL', KEYS[3], ARGV[2])
return #changes / 2
