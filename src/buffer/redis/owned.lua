-- Small writes of the owner: quarantine, release, store-lease, trim.
-- KEYS: hash or stream, meta. ARGV: owner, what, field, value.
local owner = redis.call('HGET', KEYS[2], 'owner')
if owner ~= ARGV[1] then
  return redis.error_reply('FENCED ' .. tostring(owner))
end
if ARGV[2] == 'delete' then
  redis.call('HDEL', KEYS[1], ARGV[3])
elseif ARGV[2] == 'trim' then
  redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[3])
elseif ARGV[2] == 'newer' then
  local there = redis.call('HGET', KEYS[1], ARGV[3])
  if there and cjson.decode(there).version >= cjson.decode(ARGV[4]).version then
    if there == ARGV[4] then return 'OK' end
    return redis.error_reply('CONFLICT 0')
  end
  redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
else
  redis.call('HSET', KEYS[1], ARGV[3], ARGV[4])
end
return 'OK'
