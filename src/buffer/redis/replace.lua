-- The first half of the keys takes the place of the second half: what is there goes, all at once.
local half = #KEYS / 2
for i = 1, half do
  redis.call('DEL', KEYS[half + i])
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('RENAME', KEYS[i], KEYS[half + i])
  end
end
return 'OK'
