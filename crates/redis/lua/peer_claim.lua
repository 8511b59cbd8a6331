-- Claims a session's name, where nobody has it or the claimer may take it from who has.
-- KEYS: the claim. ARGV: its value, milliseconds, the value that may be replaced or "".
-- Answers "" where it is claimed, else the value that stands.
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] and held ~= ARGV[3] then
  return held
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ''
