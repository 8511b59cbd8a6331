-- Sees to it that a stream of events and a group of readers are there; a new group begins with the
-- oldest event. Where both are there, as they mostly are, that is no error.
-- KEYS: the stream. ARGV: the group.
-- Answers 1 if the group is new.
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    if group[2] == ARGV[1] then
      return 0
    end
  end
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM', 'ENTRIESREAD', '0')
return 1
