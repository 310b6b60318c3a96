"""Token buckets in Redis or Valkey; implements `flows.gateway.limit.SharedBuckets`.

One script takes from all buckets of a call, so that a call costs one round trip and replicas cannot come between. Its
time is the server's, so clocks of replicas do not matter. A bucket is the tokens that are out and the microsecond at
which that was so; one that is full again equals one never seen, so its key may expire.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.limit import Bucket
from twogate.stores.shared.redis_keys import digest_of, prefix_of
from twogate.stores.shared.redis_link import RedisLink, Script

MARGIN: Final = 60_000
"""Milliseconds that a key outlives the moment at which its bucket is full, should the server's clock be set."""

SERVER_TIME: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

# KEYS: the buckets, narrowest first. ARGV: rate (a second) and burst of each. Returns microseconds to wait.
# A clock that was set back gives nothing back and takes nothing: counting goes on from where it stands. More than
# `burst` cannot be out, also where another configuration let more out.
# Half a microsecond of slack, as core.limits has it.
TAKE: Final = f"""
local out, wait = {{}}, 0
for i, key in ipairs(KEYS) do
  local rate, burst = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local tokens, since = 0, now
  local kept = redis.call('GET', key)
  if kept then
    local split = string.find(kept, ' ', 1, true)
    tokens = tonumber(string.sub(kept, 1, split - 1))
    since = tonumber(string.sub(kept, split + 1))
  end
  tokens = math.min(tokens, burst) - math.max(now - since, 0) * rate / 1000000
  tokens = math.max(tokens, 0) + 1
  wait = (tokens - burst) * 1000000 / rate
  if wait > 0.5 then return math.ceil(wait) end
  out[i] = {{tokens, math.ceil(tokens * 1000 / rate) + {MARGIN}}}
end
for i, key in ipairs(KEYS) do
  redis.call('SET', key, string.format('%.17g %.0f', out[i][1], now), 'PX', string.format('%.0f', out[i][2]))
end
return 0
"""

_MICRO: Final = 1_000_000


class RedisBuckets:
    """Takes tokens from buckets that all replicas of one deployment share."""

    def __init__(self, link: RedisLink, public_url: str, script: Script | None = None) -> None:
        """`script` is for tests that bring the time along."""
        self._link = link
        self._prefix = prefix_of(public_url) + "rate:"
        self._script = script or Script(SERVER_TIME + TAKE)

    async def take(self, buckets: Sequence[Bucket]) -> float:
        """0.0 if every bucket gave a token; else none did, and the first that has none says how many seconds to wait.

        Raises:
            GateError: SHARED_UNAVAILABLE.
        """
        numbers = [number for bucket in buckets for number in (bucket.rate.rate, bucket.rate.burst)]
        keys = tuple(self._prefix + digest_of(bucket.name) for bucket in buckets)
        wait = await self._link.run(self._script, keys, *numbers)
        if not isinstance(wait, int):
            raise GateError(ErrorCode.SHARED_UNAVAILABLE, "the server answered with something else than a number")
        return wait / _MICRO
