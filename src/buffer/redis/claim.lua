-- Makes ARGV[2] the only writer. The epoch grows with every claim, so that commands of earlier claims which are still
-- under way are refused when they arrive.
-- KEYS: stream, meta. ARGV: 'take' | 'renew', owner, epoch of the owner's last claim, floor, format.
local owner = redis.call('HGET', KEYS[2], 'owner')
local epoch = tonumber(redis.call('HGET', KEYS[2], 'epoch') or '0')
local format = redis.call('HGET', KEYS[2], 'format')
if format and tonumber(format) > tonumber(ARGV[5]) then
  return redis.error_reply('FORMAT ' .. format)
end
-- A log that came back older than our claim names a predecessor, with a smaller epoch: that is not a successor.
if ARGV[1] == 'renew' and owner and owner ~= ARGV[2] and epoch >= tonumber(ARGV[3]) then
  return redis.error_reply('FENCED ' .. owner)
end
epoch = math.max(epoch, tonumber(ARGV[3])) + 1
local found = tonumber(redis.call('HGET', KEYS[2], 'last') or '0')
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      found = math.max(found, tonumber(string.match(info[i + 1], '^%d+')))
    end
  end
end
local last = math.max(found, tonumber(ARGV[4]))
redis.call('HSET', KEYS[2], 'owner', ARGV[2], 'epoch', string.format('%.0f', epoch), 'last',
  string.format('%.0f', last), 'format', ARGV[5])
return { string.format('%.0f', epoch), string.format('%.0f', found), string.format('%.0f', last) }
