-- Which request is the next one of each list, by its digest: requests may be large.
--
-- KEYS  the lists
-- Returns a digest for each, empty for an empty list.

local heads = {}
for index = 1, #KEYS do
  local head = redis.call('LINDEX', KEYS[index], -1)
  heads[index] = head and redis.sha1hex(head) or ''
end
return heads
