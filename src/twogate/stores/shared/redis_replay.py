"""Values that may be used once, in Redis or Valkey; implements `flows.authserver.clients.ReplayStore`.

A server of this kind may lose what it holds: by a restart without a disk, a fail-over, a FLUSHALL. What was used before
could then be used again. So the server holds one key that never expires: its memory's name, and since when there is
one. A process that has known one name and meets none, or another, notes in the server that a memory was lost; from then
on no replica redeems what could have been used before (SHARED_UNAVAILABLE), which soon is nothing. A server that
restarts from a snapshot has the name and not what was used since. So the key also says in which life of the server it
was written; in another one, unless the server logs each write, the memory counts as lost and begins anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.assertion import LEEWAY
from twogate.core.oauth.client_assertion import MAX_LIFETIME
from twogate.flows.authserver import authenticate_client, dpop, identity_assertions, passkeys
from twogate.flows.environment import Rng
from twogate.stores.shared.redis_keys import digest_of, prefix_of
from twogate.stores.shared.redis_link import RedisLink, Script

KEPT_AFTER: Final = 300
"""Seconds past its expiry that a value is kept, for replicas whose clocks are behind and which would still take it."""

LONGEST: Final[Mapping[str, int]] = MappingProxyType(
    {
        authenticate_client.REPLAY_KIND: MAX_LIFETIME + 2 * LEEWAY,
        dpop.REPLAY_KIND: 2 * dpop.NONCE_SECONDS,
        identity_assertions.REPLAY_KIND: 3600 + 2 * LEEWAY,
        passkeys.REPLAY_KIND: passkeys.CHALLENGE_LIFETIME,
    }
)
"""Seconds for which a value of a kind can be good when it is used, at the most."""

LONGEST_OF_OTHERS: Final = 24 * 3600 + 2 * LEEWAY
"""The same of every other kind: a day is the most that any setting allows."""

MAX_KEPT: Final = 366 * 24 * 3600
"""Seconds ahead that a value may expire."""

# KEYS: the memory's name, and the value unless one only asks. ARGV: the name that the caller knows, one for a new
# memory, and of the value: seconds it is good for, the most that these could be, milliseconds to keep it; last the life
# of the server, see Script.
# Returns the name and: 1 redeemed, 0 used before, or minus the seconds until this may be tried.
REDEEM: Final = """
local now = tonumber(redis.call('TIME')[1])
local memory = redis.call('HMGET', KEYS[1], 'name', 'began', 'lost', 'life')
local name, began, lost, life = memory[1], tonumber(memory[2]), memory[3], ARGV[#ARGV]
if not name then
  name, began, lost = ARGV[2], now, '0'
  redis.call('HSET', KEYS[1], 'name', name, 'began', began, 'lost', lost, 'life', life)
elseif life ~= '' and life ~= memory[4] then
  began, lost = now, '1'
  redis.call('HSET', KEYS[1], 'began', began, 'lost', lost, 'life', life)
end
if ARGV[1] ~= '' and ARGV[1] ~= name and lost == '0' then
  lost = '1'
  redis.call('HSET', KEYS[1], 'lost', lost)
end
if not KEYS[2] then return {name, 1} end
if lost == '1' then
  local wait = began + tonumber(ARGV[4]) - now - tonumber(ARGV[3])
  if wait >= 0 then return {name, -wait - 1} end
end
if redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[5]) then return {name, 1} end
return {name, 0}
"""

_SCRIPT: Final = Script(REDEEM, told_life=True)
_NAME_BYTES: Final = 16


class RedisReplayStore:
    """Remembers digests of used values until they expire."""

    def __init__(self, link: RedisLink, public_url: str, rng: Rng) -> None:
        self._link = link
        self._prefix = prefix_of(public_url)
        self._rng = rng
        self._memory = ""

    async def remember(self) -> None:
        """Learn the name of the server's memory, and whether it is the one that was known.

        Raises:
            GateError: SHARED_UNAVAILABLE.
        """
        await self._run((self._prefix + "memory",))

    async def redeem(self, kind: str, issuer: str, value: str, expires_at: int, now: int) -> bool:
        """True exactly once per (kind, issuer, value) until `expires_at`; False ever after, and if that has passed.

        Only the difference between the times counts here: the server keeps the value by its own clock.

        Raises:
            GateError: REQUEST_MALFORMED if the value is not valid Unicode, or expires in years; SHARED_UNAVAILABLE.
        """
        good_for = expires_at - now
        if good_for <= 0:
            return False
        if good_for > MAX_KEPT:
            raise GateError(ErrorCode.REQUEST_MALFORMED, "a value cannot be stored: it expires too late")
        try:
            key = f"{self._prefix}used:{digest_of(kind, issuer, value)}"
        except UnicodeEncodeError as error:
            raise GateError(ErrorCode.REQUEST_MALFORMED, "a value cannot be stored: UnicodeEncodeError") from error
        longest = LONGEST.get(kind, LONGEST_OF_OTHERS) + LEEWAY
        keep = (good_for + KEPT_AFTER) * 1000
        outcome = await self._run((self._prefix + "memory", key), good_for, longest, keep)
        if outcome < 0:
            raise GateError(
                ErrorCode.SHARED_UNAVAILABLE,
                f"the shared store lost its memory, and this may have been used before; so for {-outcome} s more",
            )
        return outcome == 1

    async def _run(self, keys: tuple[str, ...], *arguments: int) -> int:
        # Nobody has to guess it: that two memories never have the same name is enough.
        fresh = self._rng.token(_NAME_BYTES).hex()
        match await self._link.run(_SCRIPT, keys, self._memory, fresh, *arguments):
            case [bytes(name), int(outcome)] if name.isascii():
                self._memory = name.decode("ascii")
                return outcome
            case _:
                raise GateError(ErrorCode.SHARED_UNAVAILABLE, "the server answered with something unexpected")
