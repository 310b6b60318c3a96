"""Enterprise-managed authorization: a company's identity provider decides which clients act for its people (ID-JAG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import UnverifiedJwt
from twogate.core.oauth.id_jag import IdJagIssuer, VerifiedIdJag, verify_id_jag
from twogate.flows.authserver.clients import Client, ReplayStore
from twogate.flows.authserver.people import User
from twogate.flows.gateway.issuers import KeySource

REPLAY_KIND: Final = "id_jag"


class Users(Protocol):
    """Finds people by what an identity provider calls them."""

    async def by_identity(self, issuer: str, provider_subject: str, tenant: str) -> User | None:
        """The person linked to a provider's subject; None if nobody is.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def upstream_user(
        self,
        provider_issuer: str,
        provider_subject: str,
        tenant: str,
        name: str,
        display_name: str,
        groups: Sequence[str],
        now: int,
    ) -> User:
        """The person linked to a provider's subject, made if there is none; the groups are what the provider says now.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        ...


class IdentityAssertions:
    """Redeems ID-JAGs, each once. `issuer` is this server's own."""

    def __init__(
        self,
        issuer: str,
        trusted: Mapping[str, IdJagIssuer],
        keys: Mapping[str, KeySource],
        replay: ReplayStore,
        users: Users,
    ) -> None:
        self._issuer = issuer
        self._trusted = trusted
        self._keys = keys
        self._replay = replay
        self._users = users

    def select(self, assertion: UnverifiedJwt) -> IdJagIssuer | None:
        """The configured identity provider that an assertion claims to be from."""
        return self._trusted.get(assertion.unverified_issuer or "")

    async def verify(self, assertion: UnverifiedJwt, client: Client, proof: str | None, now: int) -> VerifiedIdJag:
        """What a good assertion for this authenticated client says; nothing is used up yet.

        Raises:
            GateError: ISSUER_UNKNOWN, TENANT_REFUSED, what `verify_id_jag` raises; KEYS_UNAVAILABLE.
        """
        issuer = self.select(assertion)
        if issuer is None:
            raise GateError(ErrorCode.ISSUER_UNKNOWN, "iss is missing or not configured")
        if client.tenant != issuer.tenant:
            raise GateError(ErrorCode.TENANT_REFUSED, "the provider's people are of another tenant than the client")
        # First, so that a refused one costs the issuer no fetch of its keys.
        if assertion.unverified_algorithm not in issuer.algorithms:
            raise GateError(ErrorCode.TOKEN_ALGORITHM_REFUSED, "alg is not among the issuer's")
        keys = await self._keys[issuer.issuer].keys(assertion.unverified_kid)
        return verify_id_jag(assertion, issuer, client.client_id, keys, self._issuer, proof, now)

    async def redeem(self, verified: VerifiedIdJag, tenant: str, now: int) -> User:
        """Use an assertion up, and give the person that it is about, added at the first of theirs.

        Raises:
            GateError: ASSERTION_REPLAYED; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        if not await self._replay.redeem(REPLAY_KIND, verified.issuer, verified.jti, verified.replayable_until, now):
            raise GateError(ErrorCode.ASSERTION_REPLAYED, "jti was used before")
        known = await self._users.by_identity(verified.issuer, verified.subject, tenant)
        if known is not None and verified.groups is None:
            # Assertions that say nothing of groups must not take away those of the person's last login.
            return known
        name = verified.name or verified.subject
        shown = "" if known is None else known.display_name
        return await self._users.upstream_user(
            verified.issuer, verified.subject, tenant, name, shown, verified.groups or (), now
        )
