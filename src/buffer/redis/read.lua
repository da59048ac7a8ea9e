-- Entries from a place on: up to so many, and none after those that have so many bytes together. One by one, so that Redis
-- never holds more of them than it answers with.
-- KEYS: stream. ARGV: first seq, entries, bytes.
local limit, left, from = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[1] .. '-0'
local found = {}
while #found < limit and left > 0 do
  local there = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 1)[1]
  if not there then break end
  local id, fields, entry = there[1], there[2], false
  for i = 1, #fields, 2 do
    if fields[i] == 'entry' then entry = fields[i + 1] end
  end
  found[#found + 1] = {id, entry}
  left = left - (entry and #entry or 0)
  from = string.gsub(id, '%-%d+$', '') .. '-1'
end
return found
