"""The token endpoint: an authenticated client gets a short-lived token for one resource (RFC 6749 section 4.4).

A request's way: form -> one client authentication -> client, agent -> resource, scopes -> token -> audit -> answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import FACES, GATE_ONE, ErrorCode, GateError
from twogate.core.jose.keys import parse_jwks
from twogate.core.oauth import access_token
from twogate.core.oauth.access_token import AccessTokenGrant
from twogate.core.oauth.client_assertion import verify_client_assertion
from twogate.core.oauth.client_auth import (
    Presented,
    PresentedAssertion,
    PresentedSecret,
    parse_presented,
    verify_secret,
)
from twogate.core.oauth.metadata import token_endpoint
from twogate.core.oauth.token_request import TokenRequest, parse_form, parse_token_request, verify_request
from twogate.core.principal import Agent, AgentId
from twogate.flows.audit import AuditSink, Refusals
from twogate.flows.authserver.clients import Client, ClientAuth, ClientStore, ReplayStore
from twogate.flows.environment import Clock, Rng
from twogate.flows.signer import Signer

REPLAY_KIND: Final = "client_assertion"

_FORM_TYPE: Final = re.compile(r'application/x-www-form-urlencoded(?:[ \t]*;[ \t]*charset="?utf-8"?)?', re.IGNORECASE)


class Agents(Protocol):
    """Tells the current state of agents."""

    async def agent(self, agent: AgentId) -> Agent | None:
        """An agent as of now, disabled or not.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class TokenSettings(msgspec.Struct, frozen=True):
    """What the configuration says of tokens. `resources` maps a tenant to the resources its clients may name."""

    issuer: str
    resources: Mapping[str, frozenset[str]]
    scopes: frozenset[str]
    lifetime: int = access_token.DEFAULT_LIFETIME

    def __post_init__(self) -> None:
        """Refuse a lifetime that is not short."""
        if not 0 < self.lifetime <= access_token.MAX_LIFETIME:
            raise ValueError(f"an access token lives between 1 and {access_token.MAX_LIFETIME} seconds")


class TokenHttpRequest(msgspec.Struct, frozen=True):
    """What the endpoint needs of the HTTP request. Header fields are all values in order; `address` is the caller's.

    A body that is longer than its cap may be passed on cut, as long as it stays longer than the cap.
    """

    content_type: tuple[str, ...]
    authorization: tuple[str, ...]
    query: str
    body: bytes
    address: str

    def __repr__(self) -> str:
        """Say where from; header and body hold credentials."""
        return f"TokenHttpRequest(address={self.address!r})"


class TokenIssued(msgspec.Struct, frozen=True):
    """A successful answer (RFC 6749 section 5.1). `scope` is None if the token has none."""

    access_token: str
    expires_in: int
    scope: str | None

    def __repr__(self) -> str:
        """Leave the token out."""
        return f"TokenIssued(expires_in={self.expires_in}, scope={self.scope!r})"


class TokenRefused(msgspec.Struct, frozen=True):
    """A refusal as the client may learn it. `with_header`: it tried to authenticate by an Authorization header."""

    code: ErrorCode
    with_header: bool


TokenAnswer = TokenIssued | TokenRefused


class _Caller(msgspec.Struct):
    """What is known of the caller so far, for the audit trail; the names are claims until authentication is through."""

    tenant: str = ""
    agent: str = ""
    method: str = ""


class TokenEndpoint:
    """Answers token requests. `settings` may be replaced at any time; each request reads it once."""

    def __init__(
        self,
        settings: TokenSettings,
        clients: ClientStore,
        replay: ReplayStore,
        agents: Agents,
        signer: Signer,
        audit: AuditSink,
        refusals: Refusals,
        clock: Clock,
        rng: Rng,
    ) -> None:
        self.settings = settings
        self._clients = clients
        self._replay = replay
        self._agents = agents
        self._signer = signer
        self._audit = audit
        self._refusals = refusals
        self._clock = clock
        self._rng = rng

    async def respond(self, request: TokenHttpRequest) -> TokenAnswer:
        """Answer one request. The audit trail has the answer first; if it cannot be written, nothing is issued."""
        settings, caller = self.settings, _Caller()
        try:
            return await self._grant(request, settings, caller)
        except GateError as error:
            try:
                # Nobody proved who asks, so these are coalesced: a stranger must not be able to fill the disk.
                await self._refusals.record(
                    self._event(EventKind.TOKEN_REFUSED, request, settings, caller, error.debug, error.code)
                )
            except GateError as failure:
                error = failure
            return TokenRefused(_told(error.code), bool(request.authorization))

    async def _grant(self, request: TokenHttpRequest, settings: TokenSettings, caller: _Caller) -> TokenIssued:
        now = self._clock.now()
        form = _parse_body(request)
        presented = parse_presented(request.authorization, form)
        caller.agent, caller.method = presented.unverified_client_id, presented.method.value
        wanted = parse_token_request(form)

        client = await self._authenticate(presented, settings.issuer, caller, now)
        verify_request(wanted, settings.resources.get(client.tenant, frozenset()), settings.scopes)
        await self._clients.touch(client.client_id, now)

        grant = AccessTokenGrant(
            issuer=settings.issuer,
            client_id=client.client_id,
            tenant=client.tenant,
            resource=wanted.resource,
            scopes=wanted.scopes,
            issued_at=now,
            lifetime=settings.lifetime,
            jti=access_token.encode_base64url(self._rng.token(access_token.JTI_BYTES)),
        )
        token = await self._sign(grant)
        issued = self._event(EventKind.TOKEN_ISSUED, request, settings, caller, _describe(wanted, grant.jti))
        await self._audit.append(issued)
        return TokenIssued(token, settings.lifetime, " ".join(wanted.scopes) or None)

    async def _authenticate(self, presented: Presented, issuer: str, caller: _Caller, now: int) -> Client:
        client = await self._clients.get(presented.unverified_client_id)
        if client is not None:
            caller.tenant, caller.agent = client.tenant, client.agent.agent
        match presented:
            case PresentedSecret():
                # An unknown client, or one that has keys, is compared too: see verify_secret.
                verify_secret(presented.secret, _live_digests(client, now))
            case PresentedAssertion():
                await self._redeem_assertion(presented, client, issuer, now)
        if client is None:
            raise GateError(ErrorCode.CLIENT_INVALID, "unknown client")
        # Asked after the credential was good, so that only its holder could learn anything from it.
        agent = await self._agents.agent(client.agent)
        if agent is None:
            raise GateError(ErrorCode.AGENT_UNBOUND, "the client's agent does not exist")
        if agent.disabled:
            raise GateError(ErrorCode.AGENT_DISABLED, "the client's agent is disabled")
        return client

    async def _redeem_assertion(
        self, presented: PresentedAssertion, client: Client | None, issuer: str, now: int
    ) -> None:
        if client is None or client.auth is not ClientAuth.PRIVATE_KEY_JWT or client.jwks is None:
            raise GateError(ErrorCode.CLIENT_INVALID, "unknown client, or one registered with another method")
        verified = verify_client_assertion(
            presented.assertion,
            client.client_id,
            parse_jwks(client.jwks.encode()),
            frozenset({issuer, token_endpoint(issuer)}),
            now,
        )
        # Last, so that nobody without the key can use up the client's identifiers (RFC 7523 section 3, point 7).
        if not await self._replay.redeem(REPLAY_KIND, verified.client_id, verified.jti, verified.replayable_until, now):
            raise GateError(ErrorCode.ASSERTION_REPLAYED, "jti was used before")

    async def _sign(self, grant: AccessTokenGrant) -> str:
        signed = access_token.signing_input(
            grant.claims, algorithm=self._signer.algorithm.value, kid=self._signer.kid, typ=access_token.TYPE
        )
        return access_token.join_signature(signed, await self._signer.sign(signed))

    def _event(
        self,
        kind: EventKind,
        request: TokenHttpRequest,
        settings: TokenSettings,
        caller: _Caller,
        detail: str,
        reason: ErrorCode | None = None,
    ) -> AuditEvent:
        return AuditEvent(
            kind=kind,
            at=self._clock.now_us(),
            address=request.address,
            issuer=settings.issuer,
            tenant=caller.tenant,
            agent=caller.agent,
            method=caller.method,
            reason="" if reason is None else reason.value,
            detail=detail,
        )


def _parse_body(request: TokenHttpRequest) -> Mapping[str, str]:
    # "The parameters … MUST NOT be included in the request URI" (RFC 6749 section 2.3.1): addresses end up in logs.
    if request.query:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "the token endpoint has no query")
    if len(request.content_type) != 1 or _FORM_TYPE.fullmatch(request.content_type[0]) is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "Content-Type is not application/x-www-form-urlencoded")
    return parse_form(request.body)


def _live_digests(client: Client | None, now: int) -> tuple[bytes, ...]:
    if client is None or client.auth is not ClientAuth.CLIENT_SECRET:
        return ()
    return tuple(
        bytes.fromhex(secret.digest)
        for secret in client.secret_digests
        if secret.expires_at is None or now < secret.expires_at
    )


def _describe(wanted: TokenRequest, jti: str) -> str:
    return f"jti {jti} for {wanted.resource} scope {' '.join(wanted.scopes) or '(none)'}"


def _told(code: ErrorCode) -> ErrorCode:
    # Which step of the authentication failed is for the audit trail; the client hears one answer for all of them.
    return ErrorCode.CLIENT_INVALID if FACES[code].jsonrpc == GATE_ONE else code
