-- Give back what a node has taken and not begun.
--
-- KEYS  1 what the node has taken  2... the record of each party
-- ARGV  1 node

for index = 2, #KEYS do
  local known = redis.call('HMGET', KEYS[index], 'node', 'seq')
  if known[1] == ARGV[1] and not known[2] then
    redis.call('DEL', KEYS[index])
    redis.call('HDEL', KEYS[1], KEYS[index])
  end
end
