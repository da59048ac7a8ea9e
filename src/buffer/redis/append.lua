-- Appends consecutive entries to the stream, all or none.
-- KEYS: stream, meta. ARGV: owner, epoch, first seq, then for each entry: uuid, role, created_at, statements, entry.
-- Everything is checked before the first write: a script's writes are one unit of the append-only file.
local meta = redis.call('HMGET', KEYS[2], 'owner', 'epoch', 'last')
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] then
  return redis.error_reply('FENCED ' .. tostring(meta[1]))
end
local last, first, width = tonumber(meta[3]), tonumber(ARGV[3]), 5
local count = (#ARGV - 3) / width
if first > last + 1 then
  return redis.error_reply('BEHIND ' .. meta[3])
end
local function id(seq) return string.format('%.0f-0', seq) end
for i = 0, count - 1 do
  local seq = first + i
  if seq > last then break end
  local there = redis.call('XRANGE', KEYS[1], id(seq), id(seq))[1]
  if not there or there[2][2] ~= ARGV[4 + i * width] then
    return redis.error_reply('CONFLICT ' .. string.format('%.0f', seq))
  end
end
for i = math.max(0, last - first + 1), count - 1 do
  local at = 4 + i * width
  redis.call('XADD', KEYS[1], id(first + i), 'uuid', ARGV[at], 'role', ARGV[at + 1], 'created_at', ARGV[at + 2],
    'statements', ARGV[at + 3], 'entry', ARGV[at + 4])
end
local final = math.max(last, first + count - 1)
redis.call('HSET', KEYS[2], 'last', string.format('%.0f', final))
return string.format('%.0f', final)
