"""Trusted issuers: what each may say, and where its keys come from (DESIGN decision 2; rows R-01, R-12)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import FOR_SIGNATURES, MAX_DOCUMENT, Algorithm, VerificationKey, parse_jwks
from twogate.flows.environment import Clock
from twogate.flows.fetch import Fetch, Fetched, FetchError, Trust
from twogate.flows.gateway.discovery import discover, trust_in

DEFAULT_MAX_AGE: Final = 300.0
"""Seconds that keys are kept when the issuer gives no `Cache-Control`."""

MAX_AGE: Final = 3600.0
MIN_AGE: Final = 30.0

REFETCH_INTERVAL: Final = 30.0
"""Seconds between two fetches that an unknown `kid` may cause, so that strangers cannot make us hammer an issuer."""

RETRY_INTERVAL: Final = 1.0
"""Seconds after a failed fetch before the next one."""


class ClaimPointers(msgspec.Struct, frozen=True):
    """RFC 6901 pointers into an issuer's claims. A user exists only where the operator points at one."""

    agent: str
    tenant: str | None = None
    role: str | None = None
    user: str | None = None
    user_optional: bool = False
    groups: str | None = None
    scope: str | None = None
    session: str | None = None
    device: str | None = None
    # The agent of tokens whose client is bound to none; only our own issuer may say so.
    assigned: str | None = None


class TrustedIssuer(msgspec.Struct, frozen=True):
    """What an operator lets one issuer say. `max_lifetime` is in seconds.

    `types` are JOSE `typ` values as `media_type` gives them, None standing for tokens without one. `audiences` maps a
    resource of ours to the one other name that the issuer has for it. `revocable` is our own server alone: its tokens
    can be revoked by name, and other issuers' names must not collide with them. `signed`: its tokens are JWTs, verified
    by `algorithms`; `asked`: it is asked about each, which those that are no JWTs need. `one_time`: each of its tokens
    is good for one request.
    """

    issuer: str
    algorithms: frozenset[Algorithm]
    types: frozenset[str | None]
    tenants: frozenset[str]
    roles: frozenset[str]
    pointers: ClaimPointers
    max_lifetime: int
    audiences: Mapping[str, str] = MappingProxyType({})
    revocable: bool = False
    signed: bool = True
    asked: bool = False
    one_time: bool = False

    def __post_init__(self) -> None:
        """Refuse an issuer without algorithms, types or tenants: an empty list must never come to mean "any".

        Nor may one name mean two resources: a token for one would be good at the other.
        """
        if not (self.issuer and self.types and self.tenants and self.max_lifetime > 0):
            raise ValueError("an issuer needs a name, algorithms, types, tenants and a maximum lifetime")
        if self.signed != bool(self.algorithms) or not (self.signed or self.asked):
            raise ValueError("an issuer's tokens are verified by algorithms, by asking it, or both")
        names = self.audiences.values()
        if len(set(names)) != len(names) or not all(names):
            raise ValueError("each name of an audience means one resource")


class IntrospectedClaims(msgspec.Struct, frozen=True):
    """What the issuer itself says of a token that is active now. Nothing of its meaning is checked yet."""

    claims: Mapping[str, Any]


class Asking(Protocol):
    """Asks an issuer about its tokens; `introspection.Introspector` does. Its word is good for `fresh_for` seconds."""

    fresh_for: int

    async def introspect(self, unverified_token: str) -> IntrospectedClaims:
        """What the issuer says of an active access token.

        Raises:
            GateError: TOKEN_REVOKED, TOKEN_TYPE_REFUSED, IDENTITY_PROVIDER_UNAVAILABLE, KEYS_UNAVAILABLE.
        """
        ...


class KeySource(Protocol):
    """Gives an issuer's current verification keys."""

    async def keys(self, unverified_kid: str | None) -> tuple[VerificationKey, ...]:
        """The keys; fetched again, at a limited rate, when none has this `kid`.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        ...


class FixedKeys:
    """The keys of the embedded authorization server, which lives in this process."""

    def __init__(self, keys: tuple[VerificationKey, ...]) -> None:
        self._keys = keys

    async def keys(self, unverified_kid: str | None) -> tuple[VerificationKey, ...]:  # noqa: ARG002 - KeySource
        """The keys as given."""
        return self._keys


class RemoteKeys:
    """One external issuer's JWK set, cached by HTTP headers.

    Where no `jwks_uri` is configured it is discovered (RFC 8414, then OpenID Connect Discovery); the metadata must
    name the very issuer. Expired keys are never used: while an issuer cannot be reached, its tokens are refused. `uses`
    are the values of `use` that its keys for tokens have.
    """

    def __init__(
        self,
        issuer: str,
        jwks_uri: str | None,
        ca_file: Path | None,
        fetch: Fetch,
        clock: Clock,
        uses: frozenset[str] = FOR_SIGNATURES,
    ) -> None:
        self._issuer = issuer
        self._configured_uri = jwks_uri
        self._ca_file = ca_file
        self._fetch = fetch
        self._clock = clock
        self._uses = uses
        self._keys: tuple[VerificationKey, ...] = ()
        self._expires = 0.0
        self._refetch_at = 0.0
        self._retry_at = 0.0
        self._lock = asyncio.Lock()

    async def keys(self, unverified_kid: str | None) -> tuple[VerificationKey, ...]:
        """The keys, from the cache if it is fresh and knows the `kid`.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        if self._fresh() and self._knows(unverified_kid):
            return self._keys
        async with self._lock:
            now = self._clock.monotonic()
            wanted = not self._fresh() or (not self._knows(unverified_kid) and now >= self._refetch_at)
            if wanted and now >= self._retry_at:
                self._refetch_at = now + REFETCH_INTERVAL
                try:
                    await self._refresh(now)
                except GateError:
                    # From its end, so that those who waited for a slow failure do not repeat it one after the other.
                    self._retry_at = self._clock.monotonic() + RETRY_INTERVAL
                    raise
            if not self._fresh():
                raise GateError(ErrorCode.KEYS_UNAVAILABLE, f"the keys of {self._issuer} could not be fetched")
            return self._keys

    def _fresh(self) -> bool:
        return self._clock.monotonic() < self._expires

    def _knows(self, kid: str | None) -> bool:
        return kid is None or any(key.kid == kid for key in self._keys)

    async def _refresh(self, now: float) -> None:
        uri = self._configured_uri or await self._discover()
        fetched = await self._get(uri, self._trust(uri))
        keys = parse_jwks(fetched.body, self._uses)
        age = DEFAULT_MAX_AGE if fetched.cache_max_age is None else fetched.cache_max_age
        self._keys, self._expires = keys, now + min(max(age, MIN_AGE), MAX_AGE)

    async def _discover(self) -> str:
        uri: str = (await discover(self._issuer, self._fetch, self._ca_file, "jwks_uri"))["jwks_uri"]
        return uri

    def _trust(self, uri: str) -> Trust:
        return Trust.CONFIGURED if self._configured_uri is not None else trust_in(uri, self._issuer)

    async def _get(self, url: str, trust: Trust) -> Fetched:
        try:
            return await self._fetch.get(url, trust=trust, max_bytes=MAX_DOCUMENT, ca_file=self._ca_file)
        except FetchError as error:
            raise GateError(ErrorCode.KEYS_UNAVAILABLE, f"{self._issuer}: {error}") from error


class Issuers(msgspec.Struct, frozen=True):
    """The configured issuers with their keys, by issuer."""

    trusted: Mapping[str, TrustedIssuer]
    keys: Mapping[str, KeySource]
    asking: Mapping[str, Asking] = MappingProxyType({})

    def only(self, issuer: str) -> Issuers:
        """This one of them alone.

        Raises:
            KeyError: it is not configured.
        """
        return msgspec.structs.replace(self, trusted={issuer: self.trusted[issuer]})

    def opaque(self) -> TrustedIssuer:
        """The one issuer of tokens that are no JWTs. Showing them to several would give each the others' tokens.

        Raises:
            GateError: TOKEN_MALFORMED if there is none.
        """
        unsigned = [issuer for issuer in self.trusted.values() if not issuer.signed]
        if len(unsigned) != 1:
            raise GateError(ErrorCode.TOKEN_MALFORMED, "no JWT, and no issuer here has other tokens")
        return unsigned[0]

    async def ask(self, issuer: TrustedIssuer, unverified_token: str) -> IntrospectedClaims:
        """What an issuer says of a token.

        Raises:
            GateError: see `Asking.introspect`.
        """
        asking = self.asking.get(issuer.issuer)
        if asking is None:
            raise GateError(ErrorCode.IDENTITY_PROVIDER_UNAVAILABLE, f"{issuer.issuer} must be asked, and cannot be")
        return await asking.introspect(unverified_token)

    def fresh_for(self, issuer: TrustedIssuer, at_most: int) -> int:
        """Seconds that what was established of a token may be kept."""
        asking = self.asking.get(issuer.issuer)
        return min(at_most, asking.fresh_for) if issuer.asked and asking is not None else at_most

    def select(self, unverified_issuer: str | None) -> TrustedIssuer:
        """The configured issuer that a token claims to be from.

        Raises:
            GateError: ISSUER_UNKNOWN.
        """
        if unverified_issuer is None or (issuer := self.trusted.get(unverified_issuer)) is None:
            raise GateError(ErrorCode.ISSUER_UNKNOWN, "iss is missing or not configured")
        return issuer
