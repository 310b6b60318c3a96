"""Logins under way at upstream providers: from the page that a browser leaves to its return with `state`."""

from __future__ import annotations

import hashlib
from typing import Final, Protocol

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.access_token import encode_base64url
from twogate.flows.envelope import Envelope
from twogate.flows.environment import Rng

RANDOM_BYTES: Final = 32
PURPOSE: Final = "upstream login"


class PendingLogin(msgspec.Struct, frozen=True):
    """A login under way, by the digest of its `state`; `sealed` is what comes back with it. Unix seconds."""

    digest: str
    provider: str
    browser: str
    sealed: bytes
    expires_at: int


class UpstreamLoginStore(Protocol):
    """Keeps logins under way."""

    async def add(self, pending: PendingLogin, now: int) -> None:
        """Keep a login until it expires.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def redeem(self, digest: str, browser: str, now: int) -> PendingLogin | None:
        """The login of this state and browser: once, and not after it expired; else None.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Carried(msgspec.Struct, frozen=True):
    """What a login under way must still know when the browser comes back. `provider` is where it began."""

    provider: str
    tenant: str
    to: str
    nonce: str
    verifier: str

    def __repr__(self) -> str:
        """Leave out nonce and verifier."""
        return f"Carried({self.provider!r}, {self.tenant!r})"


class Outbound(msgspec.Struct, frozen=True):
    """A login that is about to begin: what the provider is told, and what is kept of it."""

    state: str
    carried: Carried

    @property
    def challenge(self) -> str:
        """The PKCE challenge of the verifier (RFC 7636 section 4.2)."""
        return encode_base64url(hashlib.sha256(self.carried.verifier.encode()).digest())

    def __repr__(self) -> str:
        """Never the state."""
        return f"Outbound({self.carried!r})"


class PendingLogins:
    """Keeps logins under way for `lifetime` seconds; all that they carry is sealed."""

    def __init__(self, store: UpstreamLoginStore, envelope: Envelope, rng: Rng, lifetime: int) -> None:
        self._store = store
        self._envelope = envelope
        self._rng = rng
        self._lifetime = lifetime

    def draw(self, provider: str, tenant: str, to: str) -> Outbound:
        """A login with a state, nonce and verifier of its own, not kept yet."""
        state, nonce, verifier = (encode_base64url(self._rng.token(RANDOM_BYTES)) for _ in range(3))
        return Outbound(state, Carried(provider, tenant, to, nonce, verifier))

    async def keep(self, outbound: Outbound, browser: str, now: int) -> None:
        """Keep it for one browser (its digest).

        Raises:
            GateError: KEYS_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        digest = _digest(outbound.state)
        sealed = await self._envelope.seal(PURPOSE, digest, msgspec.json.encode(outbound.carried))
        pending = PendingLogin(digest, outbound.carried.provider, browser, sealed, now + self._lifetime)
        await self._store.add(pending, now)

    async def redeem(self, state: str, browser: str, now: int) -> Carried:
        """What a state stands for: once, in the browser that it was given to.

        Raises:
            GateError: INTERACTION_EXPIRED; KEYS_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        digest = _digest(state)
        pending = await self._store.redeem(digest, browser, now)
        if pending is None:
            raise GateError(
                ErrorCode.INTERACTION_EXPIRED, "state is unknown, used, expired, or was given to another browser"
            )
        opened = await self._envelope.open(PURPOSE, digest, pending.sealed)
        return msgspec.json.decode(opened, type=Carried)


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode()).hexdigest()
