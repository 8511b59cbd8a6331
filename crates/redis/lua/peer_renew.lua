-- Renews claims of one node, also those of its former generations and those that are missing.
-- KEYS: the claims. ARGV: "boot:", the owner, milliseconds, then the handle of each claim.
-- Answers 1 for each that is renewed, and 0 for each that another session has.
local boot = ARGV[1]
local answers = {}
for at = 1, #KEYS do
  local value = ARGV[2] .. ' ' .. ARGV[3 + at]
  local held = redis.call('GET', KEYS[at])
  if held == value then
    redis.call('PEXPIRE', KEYS[at], ARGV[3])
    answers[at] = 1
  elseif not held or (string.sub(held, 1, #boot) == boot
      and string.match(held, ' (.*)$') == ARGV[3 + at]) then
    redis.call('SET', KEYS[at], value, 'PX', ARGV[3])
    answers[at] = 1
  else
    answers[at] = 0
  end
end
return answers
