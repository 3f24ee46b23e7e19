-- Move an entry into the quarantine.
--
-- KEYS  1 the quarantine  2 what the node has taken  3 its index by time  4 the list that the entry is
--       still the next of; none where the node has taken it
-- ARGV  1 name of the delivery  2 now  3 most entries of the quarantine  4 the record that takes the place of
--       the entry until it is acknowledged, or an empty text  5 size  6 beginning  7 end  8 reason
--       9 digest, or an empty text to have it made
-- Returns 1, or 0 when somebody else has the entry.

local tag, now, most, record, size, head, tail, reason, digest = unpack(ARGV)
if KEYS[4] then
  local entry = redis.call('LINDEX', KEYS[4], -1)
  if not entry or #entry ~= tonumber(size) or entry:sub(1, #head) ~= head or entry:sub(-#tail) ~= tail then
    return 0
  end
  digest = redis.sha1hex(entry)
end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'none' or kind == 'stream' then -- else somebody uses the name for something else
  redis.call('XADD', KEYS[1], 'MAXLEN', most, '*', 'reason', reason, 'size', size, 'digest', digest,
    'head', head, 'tail', tail)
end
if record ~= '' then
  redis.call('HSET', KEYS[2], tag, record)
  redis.call('ZADD', KEYS[3], now, tag)
else
  redis.call('HDEL', KEYS[2], tag)
  redis.call('ZREM', KEYS[3], tag)
end
if KEYS[4] then
  redis.call('RPOP', KEYS[4])
  collectgarbage()
end
return 1
