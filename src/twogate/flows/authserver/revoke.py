"""The revocation endpoint: a client gives back a token that it does not need any more (RFC 7009).

It can give back its own tokens alone. For any other it gets the same answer as for one that never was: 200, and
nothing happens (RFC 7009 section 2.2 for unknown ones; a foreign one is not told apart, so that nobody can find out
which tokens exist).
"""

from __future__ import annotations

from typing import Final, Protocol

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import FACES, UNAVAILABLE, ErrorCode, GateError
from twogate.core.limits import TokenBuckets
from twogate.flows.audit import AuditSink
from twogate.flows.authserver.clients import Client
from twogate.flows.authserver.form import Answer, ClientCall, FormRequest, Forms, JsonAnswer
from twogate.flows.authserver.introspect import ACCESS_TOKEN_DOTS, CurrentView
from twogate.flows.authserver.revocations import Revocations
from twogate.flows.environment import Clock
from twogate.flows.gateway.issuers import Issuers
from twogate.flows.gateway.verify_token import VerifiedToken, verify_claims, verify_signed

RATE: Final = 10.0
"""Tokens that one client may revoke a second, on average: every gateway reads its view anew for each of them."""

BURST: Final = 100

DONE: Final = JsonAnswer({})
"""The answer, whatever was done. Its body is ignored (RFC 7009 section 2.2)."""


class RefreshFamilies(Protocol):
    """Knows refresh tokens, and takes them back with everything that comes from the same grant."""

    async def grant_of(self, token: str, client: Client, now: int) -> str | None:
        """The grant that a refresh token of this client comes from, however old it is; None for anything else.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def revoke(self, grant_id: str, now: int, reason: str) -> bool:
        """End a family and its access tokens; the audit trail has it first. False if it had ended already.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        ...


class RevocationEndpoint:
    """Takes back tokens for their clients."""

    def __init__(
        self,
        forms: Forms,
        issuers: Issuers,
        registry: CurrentView,
        families: RefreshFamilies,
        revocations: Revocations,
        audit: AuditSink,
        clock: Clock,
    ) -> None:
        """`issuers` holds this server alone."""
        self._forms = forms
        self._issuers = issuers
        self._registry = registry
        self._families = families
        self._revocations = revocations
        self._audit = audit
        self._clock = clock
        self._buckets = TokenBuckets(rate=RATE, burst=BURST)

    async def respond(self, request: FormRequest) -> Answer:
        """Answer one request. When it is answered, no gateway accepts the token any more."""
        return await self._forms.serve(request, self._revoke)

    async def _revoke(self, call: ClientCall) -> JsonAnswer:
        token = call.form.get("token")
        if call.client is None or token is None:
            raise GateError(ErrorCode.REQUEST_MALFORMED, "token is missing")
        if token.count(".") == ACCESS_TOKEN_DOTS:
            verified = await self._own_token(token, call.client, call.now)
            if verified is not None:
                await self._revoke_access_token(verified, call, call.client)
        else:
            await self._revoke_family(token, call.client, call.now)
        return DONE

    async def _own_token(self, unverified: str, client: Client, now: int) -> VerifiedToken | None:
        try:
            signed, issuer = await verify_signed(unverified, self._issuers)
            token = verify_claims(signed, issuer, "", now)
        except GateError as error:
            if FACES[error.code].jsonrpc == UNAVAILABLE:
                # "the client must assume the token still exists" (RFC 7009 section 2.2.1)
                raise
            return None
        return token if (token.tenant, token.binding.identifier) == (client.tenant, client.client_id) else None

    async def _revoke_access_token(self, token: VerifiedToken, call: ClientCall, client: Client) -> None:
        jti = next(name for kind, name in token.revocable if kind == "token")
        if ("token", jti) not in (await self._registry.view()).revoked:
            self._take(client)
            await self._audit.append(self._event(token, call, client, jti))
            await self._revocations.revoke("token", jti, token.expires_at, call.now)

    async def _revoke_family(self, refresh_token: str, client: Client, now: int) -> None:
        grant = await self._families.grant_of(refresh_token, client, now)
        if grant is not None:
            self._take(client)
            await self._families.revoke(grant, now, "revoked by its client")

    def _take(self, client: Client) -> None:
        if self._buckets.take(client.client_id, self._clock.monotonic()):
            raise GateError(ErrorCode.RATE_LIMITED, "the client revokes too many tokens at once")

    def _event(self, token: VerifiedToken, call: ClientCall, client: Client, jti: str) -> AuditEvent:
        return AuditEvent(
            kind=EventKind.TOKEN_REVOKED,
            at=self._clock.now_us(),
            address=call.address,
            tenant=client.tenant,
            issuer=token.binding.issuer,
            agent="" if client.agent is None else client.agent.agent,
            client=client.client_id,
            user_issuer="" if token.user is None else token.user.issuer,
            user="" if token.user is None else token.user.subject,
            session=token.session_id or "",
            method=call.trace.method,
            detail=f"jti {jti}, by its client",
        )
