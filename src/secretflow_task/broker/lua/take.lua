-- Take the next entry from the first list that has one, unless it is too large.
--
-- KEYS  1 what the node has taken  2 its index by time  3... the lists, by their order
-- ARGV  1 name of this delivery  2 now  3 most bytes  4 bytes that are shown of what is too large
--       5... of each list: the end of the record that is kept until the entry is acknowledged
-- Returns nothing, or the number of the list, the entry and its size; of what is too large, which stays
-- where it is, the beginning, the size and the end.

local tag, now, most, shown = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
for index = 3, #KEYS do
  local entry = redis.call('LINDEX', KEYS[index], -1)
  if entry and #entry > most then
    return {index - 2, entry:sub(1, shown), #entry, entry:sub(-shown)}
  end
  if entry then
    redis.call('HSET', KEYS[1], tag, '[' .. entry .. ARGV[index + 2])
    redis.call('ZADD', KEYS[2], now, tag)
    redis.call('RPOP', KEYS[index])
    return {index - 2, entry, #entry}
  end
end
return false
