"""The keys of the state store in Redis, and the scripts that read and change them.

All keys begin with `{rayrec}:`. The braces keep them on one node of a Redis Cluster.

    schema                the version of this layout
    number                the number of events that have arrived; each event gets the next number
    known                 set of digests, each of a user and one of their event_ids in the store
    events:B              hash, number -> the event as JSON, for BUCKET numbers from B * BUCKET on. A hash has so few fields that
                          Redis can pack them, and deleting a field frees its memory. A true behind the event's own values says
                          that the user did the same with the same video on the same day before, which counts once. (Up to
                          version 3, an event had nine values, and behind them a 1 said so.)
    of:K:ID               sorted set of a user's events of the kind with the letter K by time; a member is the number (12 digits),
                          the letter and the video
    hours, hour:H         set of the hours since 1970 that have events; list of the numbers of the events in one hour
    traffic:H             hash, "kind minute" -> the number of impressions, clicks, or views (a user's of a video once a day)
    counted:D             set of digests, each of a kind, a video and a user, of what counts on the day D since 1970
    seen:D, seen_days     hash, user -> the codes (`seen.py`) of what the user saw on the day D since 1970; set of these days
    withdrawn             set of videos
    forgotten             hash, digest of a user -> the number of the last event before the user was forgotten
    exports               hash, the last event of an export -> the time of its last impression
    video_number          the number of videos that were added, counted again for each model that describes them
    additions             hash, number -> [video, model, row] as JSON
    added:ID              hash, the models that describe a video -> number
    uploads               hash, video -> [time, error] as JSON
    users                 hash, user -> what was said of the user, as JSON

Scripts add and delete events. Redis runs each script, and writes it to its log, as one atomic step. At its memory limit, Redis
refuses what may need memory, unless a script has begun with a command that needs none: that is how users can be forgotten and
videos withdrawn even then.
"""

PREFIX = "{rayrec}:"
BUCKET = 128  # events in one hash

# Redis writes Lua numbers with 14 digits. That is enough for the numbers that the scripts compute: events, minutes and hours.
COMMON = f"local p, bucket = '{PREFIX}', {BUCKET}\n"
# The kinds that are counted for each video and minute: impressions, views and clicks.
COUNTED = "local counted = {i = true, v = true, c = true}\n"
# Keeps what `activity` and `counts` ask for; returns the event as it is to be kept.
INDEX = (
    COUNTED
    + """
local function index(number, user, video, kind, at, day, mark, event)
  redis.call('ZADD', p .. 'of:' .. kind .. ':' .. user, at, string.format('%012d', number) .. kind .. video)
  if counted[kind] and redis.call('SADD', p .. 'counted:' .. day, mark) == 0 then
    return string.sub(event, 1, -2) .. ',true]'
  end
  return event
end
"""
)
# Notes that a user has seen a video, behind all others of the day. A code has four bytes.
SEEN = """
local function saw(user, day, code)
  local key = p .. 'seen:' .. day
  local codes = redis.call('HGET', key, user) or ''
  local found = string.find(codes, code, 1, true)
  while found and found % 4 ~= 1 do found = string.find(codes, code, found + 1, true) end
  if found then codes = string.sub(codes, 1, found - 1) .. string.sub(codes, found + 4) end
  redis.call('HSET', key, user, codes .. code)
  redis.call('SADD', p .. 'seen_days', day)
end
"""
ADD = (
    COMMON
    + INDEX
    + SEEN
    + """
local known = {}
for i = 1, #ARGV, 10 do
  local id, user, video, kind, at, minute, day, mark, code, event = unpack(ARGV, i, i + 9)
  if redis.call('SADD', p .. 'known', id) == 1 then
    local number, hour = redis.call('INCR', p .. 'number'), math.floor(minute / 60)
    local kept = index(number, user, video, kind, at, day, mark, event)
    redis.call('HSET', p .. 'events:' .. math.floor(number / bucket), number, kept)
    redis.call('SADD', p .. 'hours', hour)
    redis.call('RPUSH', p .. 'hour:' .. hour, number)
    local again = kind == 'v' and kept ~= event
    if counted[kind] and not again then redis.call('HINCRBY', p .. 'traffic:' .. hour, kind .. minute, 1) end
    if code ~= '' then saw(user, day, code) end
  else
    known[#known + 1] = (i - 1) / 10
  end
end
return known
"""
)
DELETE = (
    COMMON
    + COUNTED
    + """
local gone = 0
for i = 1, #ARGV, 10 do
  local number, id, user, video, kind, at, minute, day, mark, repeated = unpack(ARGV, i, i + 9)
  if redis.call('HDEL', p .. 'events:' .. math.floor(number / bucket), number) == 1 then
    redis.call('SREM', p .. 'known', id)
    redis.call('ZREM', p .. 'of:' .. kind .. ':' .. user, string.format('%012d', number) .. kind .. video)
    if repeated == '0' then redis.call('SREM', p .. 'counted:' .. day, mark) end
    local traffic = p .. 'traffic:' .. math.floor(minute / 60)
    local again = kind == 'v' and repeated ~= '0'
    if counted[kind] and not again and redis.call('HINCRBY', traffic, kind .. minute, -1) <= 0 then
      redis.call('HDEL', traffic, kind .. minute)
    end
    gone = gone + 1
  end
end
return gone
"""
)
# Each of these two begins with a command that needs no memory.
FORGET = COMMON + "redis.call('HDEL', p .. 'forgotten', ARGV[1]) redis.call('HSET', p .. 'forgotten', ARGV[1], ARGV[2])"
WITHDRAW = COMMON + "redis.call('SREM', p .. 'withdrawn', ARGV[1]) redis.call('SADD', p .. 'withdrawn', ARGV[1])"
# Keeps the first row of a video and model, and returns its number and what is kept.
ADD_VIDEO = (
    COMMON
    + """
local of_video = p .. 'added:' .. ARGV[1]
local number = redis.call('HGET', of_video, ARGV[2])
if not number then
  number = redis.call('INCR', p .. 'video_number')
  redis.call('HSET', p .. 'additions', number, ARGV[3])
  redis.call('HSET', of_video, ARGV[2], number)
end
return {tostring(number), redis.call('HGET', p .. 'additions', number)}
"""
)
# An event of version 1, with its number. What has been moved already is left as it is, so a migration can be repeated.
MIGRATE = (
    COMMON
    + INDEX
    + """
for i = 1, #ARGV, 9 do
  local number, id, user, video, kind, at, day, mark, event = unpack(ARGV, i, i + 8)
  if redis.call('SADD', p .. 'known', id) == 1 then
    event = index(number, user, video, kind, at, day, mark, event)
    redis.call('HSET', p .. 'events:' .. math.floor(number / bucket), number, event)
  end
end
"""
)

# Deletes what was seen on a day.
PRUNE_SEEN = COMMON + "redis.call('UNLINK', p .. 'seen:' .. ARGV[1]) redis.call('SREM', p .. 'seen_days', ARGV[1])"
# Takes the numbers up to one from the list of an hour, and the hour itself unless events have come to it in the meantime.
PRUNE_HOUR = (
    COMMON
    + """
local hour, upto = ARGV[1], tonumber(ARGV[2])
local number = redis.call('LINDEX', p .. 'hour:' .. hour, 0)
while number and tonumber(number) <= upto do
  redis.call('LPOP', p .. 'hour:' .. hour)
  number = redis.call('LINDEX', p .. 'hour:' .. hour, 0)
end
if not number then
  redis.call('UNLINK', p .. 'traffic:' .. hour)
  redis.call('SREM', p .. 'hours', hour)
end
"""
)
# Notes what users have seen in events that were kept before that was noted.
MARK_SEEN = COMMON + SEEN + "for i = 1, #ARGV, 3 do saw(unpack(ARGV, i, i + 2)) end"

# The two scripts that read return JSON texts, which the client parses much faster than thousands of small answers.
# A user's latest clicks, deliveries (none where the fifth argument is ''), events of the kinds whose letters come behind it, and
# what the user has seen since a day.
ACTIVITY = (
    COMMON
    + """
local user, forgotten, most, since, delivered_since = unpack(ARGV, 1, 5)
local clicks = redis.call('ZREVRANGE', p .. 'of:c:' .. user, 0, most - 1, 'WITHSCORES')
local delivered = {}
if delivered_since ~= '' then
  delivered = redis.call('ZREVRANGEBYSCORE', p .. 'of:i:' .. user, '+inf', delivered_since, 'WITHSCORES', 'LIMIT', 0, most)
end
local found = {clicks, delivered}
for i = 6, #ARGV do
  found[#found + 1] = redis.call('ZREVRANGE', p .. 'of:' .. ARGV[i] .. ':' .. user, 0, most - 1, 'WITHSCORES')
end
local days, seen = {}, {}
for _, day in ipairs(redis.call('SMEMBERS', p .. 'seen_days')) do
  if tonumber(day) >= tonumber(since) then days[#days + 1] = tonumber(day) end
end
table.sort(days)
for _, day in ipairs(days) do seen[#seen + 1] = redis.call('HGET', p .. 'seen:' .. day, user) or '' end
return {redis.call('HEXISTS', p .. 'forgotten', forgotten), cjson.encode(found), table.concat(seen),
  redis.call('HGET', p .. 'users', user)}
"""
)
READ = (
    COMMON
    + """
local found = {}
for _, number in ipairs(ARGV) do
  local events = redis.call('HGETALL', p .. 'events:' .. number)
  if #events > 0 then found[#found + 1] = table.concat(events, ',') end
end
return '[' .. table.concat(found, ',') .. ']'
"""
)
