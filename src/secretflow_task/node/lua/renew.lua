-- Renew a node's lease.
--
-- KEYS  1 the node's lease  2 all nodes, by the time of their last renewal
-- ARGV  1 node  2 lifetime of a lease in seconds  3 seconds without a renewal after which a node is dead
--       4 what the node says of itself, as JSON
-- Returns the nodes that are dead.

local now = tonumber(redis.call('TIME')[1])
redis.call('SET', KEYS[1], ARGV[4], 'EX', ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[3]))
