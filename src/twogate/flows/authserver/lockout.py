"""Guessing of passwords slowed down, without letting strangers lock anybody out (row R-24).

Failures are counted where they come from. A browser that has logged this person in before is told apart by a cookie
and has a count of its own, so nobody else's failures reach it; so has an address that the person has logged in from.
Everybody else shares the count of (person, address), which grows into ever longer waits, and the count of the address,
which stops trying one password on many people. Failures from everywhere are counted for each person too, but these
never refuse: they only leave fewer free tries to addresses that are new. Passkeys are not counted at all.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection, Mapping, Sequence
from typing import Final, Protocol

import msgspec

FREE_TRIES: Final = 5
"""Failures of a (person, address) before the first wait."""

FREE_TRIES_ATTACKED: Final = 1
"""The same while the person is being attacked from everywhere."""

ATTACKED_AFTER: Final = 50
"""Failures for one person, from everywhere, that make it such an attack."""

KNOWN_TRIES: Final = 10
"""Failures of a browser, or of an address, that has logged the person in before."""

ADDRESS_TRIES: Final = 60
"""Failures of an address, whoever they were for."""

LONGEST_WAIT: Final = 300
"""Seconds. Longer ones would slow guessing little and annoy much: this leaves less than 300 tries a day."""

SHARED_WAIT: Final = 60
"""The same where one address may stand for many people."""

FORGET_AFTER: Final = 24 * 3600
"""Seconds without failures until they are forgotten."""

KNOWN_FOR: Final = 90 * 24 * 3600
"""Seconds that a browser or address stays known."""

_IPV6_NETWORK: Final = 64


class Counter(msgspec.Struct, frozen=True):
    """A count of failures, by digest: `free` of them cost nothing, later ones a wait of at most `longest` seconds."""

    digest: str
    free: int
    longest: int

    def wait_after(self, failures: int) -> int:
        """Seconds to wait after this many failures."""
        over = failures - self.free
        return 0 if over <= 0 else min(self.longest, 2 ** min(over, 30))


class FailureStore(Protocol):
    """Keeps counts of failures, and which places are known."""

    async def failures(self, digests: Collection[str], now: int) -> Mapping[str, int]:
        """The counts that there are.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def begin(self, counted: Counter, checked: Sequence[Counter], now: int) -> int:
        """Seconds that the caller must wait; 0 if it may try, and then the try counts as a failure of `counted`.

        One step, so that tries made all at once are counted one by one. A try that must wait is not counted.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def failed(self, counters: Sequence[Counter], now: int) -> None:
        """Count a failure.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def succeeded(self, forget: str, remember: Collection[str], until: int, now: int) -> None:
        """Forget a count, and know these places until `until`; they begin without failures.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Try(msgspec.Struct, frozen=True):
    """One try that may be made, and the counts that it is about."""

    wait: int
    counted: Counter
    elsewhere: tuple[Counter, ...]
    places: tuple[str, ...]


class Lockout:
    """Says who must wait. `secret` keys the digests, so that the store does not say who failed where."""

    def __init__(self, store: FailureStore, secret: bytes) -> None:
        self._store = store
        self._secret = secret

    async def begin(self, tenant: str, name: str, address: str, device: str | None, now: int) -> Try:
        """Begin a try to log in by password. `device` is the cookie of a browser that may have logged in before.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        network = network_of(address)
        of_address = self._digest("known-address", tenant, name, network)
        of_device = None if device is None else self.device_place(tenant, name, device)
        pair = self._digest("pair", tenant, name, network)
        everywhere = Counter(self._digest("person", tenant, name), ATTACKED_AFTER, 0)
        anybody = Counter(self._digest("address", network), ADDRESS_TRIES, SHARED_WAIT)
        asked = {of_address, everywhere.digest, *(() if of_device is None else (of_device,))}
        seen = await self._store.failures(asked, now)
        places = (of_address,) if of_device is None else (of_address, of_device)
        checked: tuple[Counter, ...] = ()
        elsewhere: tuple[Counter, ...] = (everywhere,)
        if of_device is not None and of_device in seen:
            counted = Counter(self._digest("device", tenant, name, device or ""), KNOWN_TRIES, LONGEST_WAIT)
            elsewhere = ()
        elif of_address in seen:
            counted = Counter(pair, KNOWN_TRIES, SHARED_WAIT)
        else:
            attacked = seen.get(everywhere.digest, 0) >= ATTACKED_AFTER
            counted = Counter(pair, FREE_TRIES_ATTACKED if attacked else FREE_TRIES, LONGEST_WAIT)
            checked = (anybody,)
            elsewhere = (everywhere, anybody)
        wait = await self._store.begin(counted, checked, now)
        return Try(wait, counted, elsewhere, places)

    def device_place(self, tenant: str, name: str, device: str) -> str:
        """The place that a browser is, by the cookie `device` that it has or is about to get."""
        return self._digest("known-device", tenant, name, device)

    async def failed(self, one: Try, now: int) -> None:
        """The try failed.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        if one.elsewhere:
            await self._store.failed(one.elsewhere, now)

    async def succeeded(self, one: Try, now: int) -> None:
        """The try was right: its places are known from now on.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        await self._store.succeeded(one.counted.digest, one.places, now + KNOWN_FOR, now)

    async def begin_change(self, tenant: str, subject: str, now: int) -> Try:
        """Begin a try to change a password by the old one, in a browser that is logged in.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        counted = Counter(self._digest("change", tenant, subject), FREE_TRIES, LONGEST_WAIT)
        return Try(await self._store.begin(counted, (), now), counted, (), ())

    def _digest(self, *parts: str) -> str:
        return hmac.digest(self._secret, b"twogate-lockout-v1\0" + msgspec.json.encode(parts), "sha256").hex()


def network_of(address: str) -> str:
    """What failures are counted by: an IPv4 address, or the network of an IPv6 one, which one subscriber has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK), strict=False))
