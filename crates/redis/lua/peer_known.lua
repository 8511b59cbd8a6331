-- Whether an owner has a lease, or is dead and not forgotten yet.
-- KEYS: leases, dead owners. ARGV: the owner.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) or redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  return 1
end
return 0
