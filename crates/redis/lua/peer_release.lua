-- Gives up claims of one node, whatever the generation, where they are still those sessions'.
-- KEYS: the claims. ARGV: "boot:", then the handle of each claim.
local boot = ARGV[1]
local released = 0
for at = 1, #KEYS do
  local held = redis.call('GET', KEYS[at])
  if held and string.sub(held, 1, #boot) == boot
      and string.match(held, ' (.*)$') == ARGV[1 + at] then
    released = released + redis.call('DEL', KEYS[at])
  end
end
return released
