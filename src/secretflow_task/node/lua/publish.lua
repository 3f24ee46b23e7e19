-- Send events, in one atomic step.
--
-- The next event of an execution and party goes out in its owner's newest epoch, and none after the terminal
-- one. The terminal events of an execution go out together. Every step renews the node's mark: a Redis that
-- came back empty, or from an older file, has another one, and the answer is 'behind'.
--
-- KEYS  1 stream  2 channel  3 list  4 the node's mark  5 what the node has taken
--       6... the record of each event's execution and party
-- ARGV  1 lifetime of records in seconds  2 length of the stream  3 whether the list is used (1 or 0)
--       4 node  5 mark  6 next mark
--       7... of each event: its number, body, epoch, whether it is terminal, whether numbers before it may
--       be missing
-- Returns {'behind'}, or of each event 'sent', 'known' or 'stale'. A record says where on the stream its last
-- event is, for who asks what became of an execution.

local lifetime, maxlen, also_list, node, mark, next_mark = unpack(ARGV, 1, 6)
if redis.call('GET', KEYS[4]) ~= mark then
  return {'behind'}
end
local answers = {}
for index = 6, #KEYS do
  local seq, _, epoch, _, may_skip = unpack(ARGV, 5 * index - 23, 5 * index - 19)
  local known = redis.call('HMGET', KEYS[index], 'epoch', 'seq', 'ended', 'node')
  local last, newest = tonumber(known[2] or '0'), tonumber(known[1] or '0')
  if newest > tonumber(epoch) or (newest == tonumber(epoch) and known[4] ~= node) then
    answers[index - 5] = 'stale'
  elseif known[3] == '1' or tonumber(seq) <= last then
    answers[index - 5] = 'known'
  elseif tonumber(seq) > last + 1 and may_skip == '0' then
    return {'behind'}
  else
    answers[index - 5] = 'sent'
  end
end
-- Before the first write, since Redis does not undo the writes of a script that fails later.
for key, kind in pairs({[KEYS[1]] = 'stream', [KEYS[3]] = 'list'}) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is not a ' .. kind)
  end
end
redis.call('SET', KEYS[4], next_mark)
for index = 6, #KEYS do
  local seq, event, epoch, terminal = unpack(ARGV, 5 * index - 23, 5 * index - 20)
  if answers[index - 5] == 'sent' then
    local at = redis.call('XADD', KEYS[1], 'MAXLEN', '~', maxlen, '*', 'event', event)
    redis.call('HSET', KEYS[index], 'node', node, 'epoch', epoch, 'seq', seq, 'ended', terminal, 'at', at)
    redis.call('EXPIRE', KEYS[index], lifetime)
    redis.call('PUBLISH', KEYS[2], event)
    if also_list == '1' then
      redis.call('LPUSH', KEYS[3], event)
    end
  end
  if terminal == '1' then
    redis.call('HDEL', KEYS[5], KEYS[index])
  end
end
return answers
