-- Take an execution for a node at all its parties there, or say who has it.
--
-- KEYS  1 cancel key  2 what the node has taken  3... the record of each party
-- ARGV  1 node  2 lifetime of records in seconds  3 prefix of leases  4 the request
--       5 whether the node has been in touch for long enough to call another dead (1 or 0)
--       6 whether only what another node has had is taken (1 or 0)
--       7 the name of this claim, which may come twice when its answer was lost
-- Returns a verdict, the epoch, and the number of each party's last event.

local node, lifetime, leases, request, knows_the_dead, only_lost, claim = unpack(ARGV)
local epoch, seqs, taken, ended = 1, {}, 0, 0
local own, other, repeated = false, false, false
for index = 3, #KEYS do
  local known = redis.call('HMGET', KEYS[index], 'node', 'epoch', 'seq', 'ended', 'claim', 'verdict')
  seqs[index - 2] = tonumber(known[3] or '0')
  epoch = math.max(epoch, tonumber(known[2] or '0'))
  if known[1] then
    taken = taken + 1
    if known[4] == '1' then
      ended = ended + 1
    elseif known[1] == node then
      own = true
      if known[5] == claim then
        repeated = known[6]
      end
    elseif redis.call('EXISTS', leases .. known[1]) == 1 then
      other = true
    end
  end
end
if other or (taken > 0 and ended == taken) then
  return {'drop', epoch, unpack(seqs)}
end
if own then
  return {repeated or 'own', epoch, unpack(seqs)}
end
local verdict = 'run'
if taken > 0 then
  if knows_the_dead == '0' then
    return {'wait', epoch, unpack(seqs)}
  end
  verdict, epoch = 'lost', epoch + 1
elseif only_lost == '1' then
  return {'drop', epoch, unpack(seqs)}
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  verdict = 'cancelled'
end
for index = 3, #KEYS do
  redis.call('HSET', KEYS[2], KEYS[index], request)
  redis.call('HSET', KEYS[index], 'node', node, 'epoch', epoch, 'claim', claim, 'verdict', verdict)
  redis.call('EXPIRE', KEYS[index], lifetime)
end
return {verdict, epoch, unpack(seqs)}
