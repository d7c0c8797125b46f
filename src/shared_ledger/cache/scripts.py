"""What Redis does in one step, in its own language (Lua 5.1).

The key of an account holds one of three:

- ``=<time> <version> <balance>``: a value, from a reading of PostgreSQL that began at this time (in
  milliseconds, by Redis's clock), of this version of the account's row;
- ``?<token> <time> <version>``: a lease, taken at this time; somebody has read this version since,
  or -1;
- ``!``: blocked.

Each expires by itself. Redis must be version 6 or later.
"""

from __future__ import annotations

MAX_KEYS = 1_000
"""How many keys a script gets at once: others wait meanwhile, and Lua's stack has an end."""

TAKE = """
-- ARGV: the token, the lease's milliseconds, the time before which values are not used.
-- Returns the time, and what each key held; an empty one now holds a lease.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local oldest = tonumber(ARGV[3])
local found = redis.call('MGET', unpack(KEYS))
for i, key in ipairs(KEYS) do
    local read_at = found[i] and tonumber(string.match(found[i], '^=(%d+) '))
    if not found[i] or (read_at and read_at < oldest) then
        redis.call('SET', key, '?' .. ARGV[1] .. ' ' .. now .. ' -1', 'PX', ARGV[2])
        found[i] = false
    end
end
table.insert(found, 1, now)
return found
"""

PUT = """
-- ARGV: the token; then for each key the version, the milliseconds to live, and the balance.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for i, key in ipairs(KEYS) do
    local version, life, balance = ARGV[3 * i - 1], ARGV[3 * i], ARGV[3 * i + 1]
    local held = redis.call('GET', key)
    local token, leased_at, seen = string.match(held or '', '^%?(%x+) (%d+) (%-?%d+)$')
    if token == ARGV[1] then
        -- Lived from before it was read, so that it cannot outlive what was read.
        local left = leased_at + life - now
        if left > 0 and tonumber(version) >= tonumber(seen) then
            local value = '=' .. leased_at .. ' ' .. version .. ' ' .. balance
            redis.call('SET', key, value, 'PX', string.format('%.0f', left))
        else
            redis.call('DEL', key)
        end
    elseif token then
        if tonumber(version) > tonumber(seen) then
            local lease = '?' .. token .. ' ' .. leased_at .. ' ' .. version
            redis.call('SET', key, lease, 'KEEPTTL')
        end
    else
        local kept = tonumber(string.match(held or '', '^=%d+ (%-?%d+) '))
        if kept and tonumber(version) > kept then
            redis.call('DEL', key)
        end
    end
end
"""

FORGET = """
-- What is blocked stays so: the transaction that blocked it may still be about to commit.
local found = redis.call('MGET', unpack(KEYS))
local gone = {}
for i, key in ipairs(KEYS) do
    if found[i] and found[i] ~= '!' then
        table.insert(gone, key)
    end
end
if #gone > 0 then
    redis.call('DEL', unpack(gone))
end
"""

BLOCK = """
-- ARGV: for how many milliseconds.
for _, key in ipairs(KEYS) do
    redis.call('SET', key, '!', 'PX', ARGV[1])
end
"""
