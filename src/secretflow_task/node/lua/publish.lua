-- Send events, in one atomic step.
--
-- The next event of an execution and party goes out in its owner's newest epoch, and none after the terminal
-- one. The terminal events of an execution go out together. Every step renews the node's mark: a Redis that
-- came back empty, or from an older file, has another one, and the answer is 'behind'.
--
-- The stream has a length and a size. The size is counted in segments: each time so many bytes have come, the
-- place is noted, and when 32 places are noted what lies before the oldest goes. So an event costs no more on a
-- long stream than on a short one. The list holds no more than the stream does.
--
-- KEYS  1 stream  2 channel  3 list  4 the node's mark  5 what the node has taken
--       6 bytes of the newest segment of the stream  7 where the full ones end, the oldest first
--       8... the record of each event's execution and party
-- ARGV  1 lifetime of records in seconds  2 length of the stream  3 bytes of a segment
--       4 whether the list is used (1 or 0)  5 node  6 mark  7 next mark
--       8... of each event: its number, body, epoch, whether it is terminal, whether numbers before it may
--       be missing
-- Returns {'behind'}, or of each event 'sent', 'known' or 'stale'. A record says where on the stream its last
-- event is, for who asks what became of an execution.

local SEGMENTS, OVERHEAD = 32, 64
local lifetime, maxlen, segment, also_list, node, mark, next_mark = unpack(ARGV, 1, 7)

local function argument(index, number)
  return ARGV[5 * (index - 8) + 7 + number]
end

local function count(bytes, at)
  local open = redis.call('INCRBY', KEYS[6], bytes)
  for _ = 1, math.floor(open / segment) do
    redis.call('RPUSH', KEYS[7], at)
  end
  redis.call('SET', KEYS[6], open % segment)
  while redis.call('LLEN', KEYS[7]) > SEGMENTS do
    redis.call('XTRIM', KEYS[1], 'MINID', redis.call('LPOP', KEYS[7]))
  end
end

if redis.call('GET', KEYS[4]) ~= mark then
  return {'behind'}
end
local answers = {}
for index = 8, #KEYS do
  local seq, epoch, may_skip = argument(index, 1), argument(index, 3), argument(index, 5)
  local known = redis.call('HMGET', KEYS[index], 'epoch', 'seq', 'ended', 'node')
  local last, newest = tonumber(known[2] or '0'), tonumber(known[1] or '0')
  if newest > tonumber(epoch) or (newest == tonumber(epoch) and known[4] ~= node) then
    answers[index - 7] = 'stale'
  elseif known[3] == '1' or tonumber(seq) <= last then
    answers[index - 7] = 'known'
  elseif tonumber(seq) > last + 1 and may_skip == '0' then
    return {'behind'}
  else
    answers[index - 7] = 'sent'
  end
end
-- Before the first write, since Redis does not undo the writes of a script that fails later.
local kinds = {[KEYS[1]] = 'stream', [KEYS[3]] = 'list', [KEYS[6]] = 'string', [KEYS[7]] = 'list'}
for key, kind in pairs(kinds) do
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is not a ' .. kind)
  end
end
redis.call('SET', KEYS[4], next_mark)
for index = 8, #KEYS do
  local seq, event = argument(index, 1), argument(index, 2)
  local epoch, terminal = argument(index, 3), argument(index, 4)
  if answers[index - 7] == 'sent' then
    local at = redis.call('XADD', KEYS[1], 'MAXLEN', '~', maxlen, '*', 'event', event)
    redis.call('HSET', KEYS[index], 'node', node, 'epoch', epoch, 'seq', seq, 'ended', terminal, 'at', at)
    redis.call('EXPIRE', KEYS[index], lifetime)
    count(#event + OVERHEAD, at)
    redis.call('PUBLISH', KEYS[2], event)
    if also_list == '1' then
      redis.call('LPUSH', KEYS[3], event)
      redis.call('LTRIM', KEYS[3], 0, redis.call('XLEN', KEYS[1]) - 1)
    end
  end
  if terminal == '1' then
    redis.call('HDEL', KEYS[5], KEYS[index])
  end
end
return answers
