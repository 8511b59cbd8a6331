-- Writes a key of ours and removes it again: that is all that the other scripts need to be allowed.
redis.call('SET', KEYS[1], '1', 'PX', 1000)
return redis.call('DEL', KEYS[1])
