"""An operator's revocations: of a token that was found where it must not be, or of a grant (`twogate token revoke`)."""

from __future__ import annotations

from typing import Literal, Protocol

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at
from twogate.core.jose.jwt import decode_object, parse_jwt
from twogate.core.oauth.refresh_token import digest_of, parse_refresh_token
from twogate.flows.audit import AuditSink
from twogate.flows.authserver.families import Family
from twogate.flows.authserver.revocations import Revocations, outlasts_tokens
from twogate.flows.environment import Clock


class Grants(Protocol):
    """Keeps families (`families.FamilyStore`, in part)."""

    async def get(self, grant_id: str) -> Family | None:
        """The family of this id, alive or not."""
        ...

    async def by_handle(self, handle: str) -> Family | None:
        """The family whose refresh tokens have the handle of this digest, alive or not."""
        ...

    async def revoke(self, grant_id: str, now: int) -> bool:
        """End a family; False if it was ended."""
        ...


class Revoked(msgspec.Struct, frozen=True):
    """What was revoked, by its name. `changed` is False if it was already."""

    kind: Literal["token", "grant"]
    name: str
    changed: bool


class TokenAdmin:
    """Revokes for operators."""

    def __init__(self, issuer: str, grants: Grants, revocations: Revocations, audit: AuditSink, clock: Clock) -> None:
        self._issuer = issuer
        self._grants = grants
        self._revocations = revocations
        self._audit = audit
        self._clock = clock

    async def revoke(self, token: str) -> Revoked:
        """Revoke an access token, or the grant of a refresh token.

        An access token's signature is not looked at: an operator may revoke any name, and one that no token has
        changes nothing.

        Raises:
            GateError: TOKEN_MALFORMED if it is neither, ISSUER_UNKNOWN if another issuer's, NOT_FOUND,
                STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        refresh_token = parse_refresh_token(token)
        if refresh_token is not None:
            return await self._revoke_family(await self._grants.by_handle(digest_of(refresh_token.handle)))
        jwt = parse_jwt(token)
        if jwt.unverified_issuer != self._issuer:
            raise GateError(ErrorCode.ISSUER_UNKNOWN, f"it is no token of {self._issuer}; revoke it where it is from")
        jti = string_at(decode_object(token.split(".")[1]), "/jti")
        if jti is None:
            raise GateError(ErrorCode.TOKEN_MALFORMED, "it has no jti")
        return await self.revoke_jti(jti)

    async def revoke_jti(self, jti: str) -> Revoked:
        """Revoke the access token of this `jti`, as the audit trail names it.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        now = self._clock.now()
        await self._audit.append(
            AuditEvent(
                kind=EventKind.TOKEN_REVOKED,
                at=self._clock.now_us(),
                issuer=self._issuer,
                detail=f"jti {jti}, by an operator",
            )
        )
        await self._revocations.revoke("token", jti, outlasts_tokens(now), now)
        return Revoked("token", jti, True)

    async def revoke_grant(self, grant_id: str) -> Revoked:
        """End a grant with all its tokens.

        Raises:
            GateError: NOT_FOUND, STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        return await self._revoke_family(await self._grants.get(grant_id))

    async def _revoke_family(self, family: Family | None) -> Revoked:
        if family is None:
            raise GateError(ErrorCode.NOT_FOUND, "there is no such grant")
        if family.revoked_at is not None:
            return Revoked("grant", family.id, False)
        now, granted = self._clock.now(), family.authorization
        await self._audit.append(
            AuditEvent(
                kind=EventKind.GRANT_REVOKED,
                at=self._clock.now_us(),
                tenant=granted.tenant,
                issuer=self._issuer,
                client=granted.client_id,
                user_issuer="" if granted.user is None else self._issuer,
                user=granted.user or "",
                task=granted.task or "",
                credential=f"grant {family.id}",
                detail="by an operator",
            )
        )
        # The row last, as `Families.revoke` does: only then does the next attempt find nothing to do.
        await self._revocations.revoke("grant", family.id, outlasts_tokens(now), now)
        await self._grants.revoke(family.id, now)
        return Revoked("grant", family.id, True)
