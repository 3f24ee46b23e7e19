-- Write down again what a node runs, for a Redis that has lost it.
--
-- KEYS  1 what the node has taken  2... the record of each party
-- ARGV  1 node  2 lifetime of records in seconds  3 the request

for index = 2, #KEYS do
  local known = redis.call('HMGET', KEYS[index], 'node', 'ended')
  if not known[1] then
    redis.call('HSET', KEYS[index], 'node', ARGV[1], 'epoch', 1)
    redis.call('EXPIRE', KEYS[index], ARGV[2])
  end
  if (known[1] or ARGV[1]) == ARGV[1] and known[2] ~= '1' then
    redis.call('HSET', KEYS[1], KEYS[index], ARGV[3])
  end
end
