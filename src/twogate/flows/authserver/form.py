"""What the endpoints that clients post forms to have in common: token, PAR, device, introspection, revocation.

A request's way: form -> proof of possession -> one client authentication -> the proof is used up -> the endpoint's own
work -> answer. A refusal anywhere is on the audit trail first. Where no client is named, the endpoint uses the proof up
itself once it knows who asks.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import FACES, GATE_ONE, ErrorCode, GateError
from twogate.core.jose.dpop import VerifiedProof
from twogate.core.oauth.client_auth import AuthMethod, names_client, parse_presented
from twogate.core.oauth.token_request import parse_form
from twogate.core.principal import Agent
from twogate.flows.audit import Refusals
from twogate.flows.authserver.authenticate_client import ClientAuthenticator, Trace
from twogate.flows.authserver.clients import Client
from twogate.flows.authserver.presented import RefusedAsError
from twogate.flows.environment import Clock

_FORM_TYPE: Final = re.compile(r'application/x-www-form-urlencoded(?:[ \t]*;[ \t]*charset="?utf-8"?)?', re.IGNORECASE)

# What is told as it is although gate one raised it: it is no failure of the client's authentication.
_TOLD: Final = frozenset({ErrorCode.REGISTRATION_REFUSED, ErrorCode.LOGIN_REFUSED, ErrorCode.PASSKEY_REFUSED})


# A poll that comes before a person decided is no refusal: devices ask again and again, and the trail would hold it all.
# Nor is the first request of every client that shows proofs: it cannot know the nonce (RFC 9449 section 8).
_UNRECORDED: Final = frozenset({ErrorCode.AUTHORIZATION_PENDING, ErrorCode.DPOP_NONCE_REQUIRED})


class FormRequest(msgspec.Struct, frozen=True):
    """What an endpoint needs of the HTTP request. Header fields are all values in order; `address` is the caller's.

    `path` is the endpoint's, as the server defines it. A body that is longer than its cap may be passed on cut, as long
    as it stays longer than the cap. `proofs` are the `DPoP` headers.
    """

    content_type: tuple[str, ...]
    authorization: tuple[str, ...]
    query: str
    body: bytes
    address: str
    path: str = "/token"
    proofs: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Say where from; header and body hold credentials."""
        return f"FormRequest({self.path}, address={self.address!r})"


async def nothing() -> None:
    """Use up no proof, because there is none."""


class ClientCall(msgspec.Struct, frozen=True):
    """An authenticated client's form. `now` is Unix seconds.

    `client` is None only where an endpoint also serves callers without one; `agent` is whom the client acts as.
    `proof` is the thumbprint (RFC 7638) of the key that the caller proved to hold (RFC 9449), if any. An endpoint that
    serves a caller without a client awaits `use_proof` once it knows who that is, and before anything is issued; it
    raises DPOP_INVALID if the proof was used before. For clients it was done already, and doing it again is fine.
    """

    form: Mapping[str, str]
    client: Client | None
    agent: Agent | None
    method: AuthMethod | None
    proof: str | None
    now: int
    address: str
    trace: Trace
    use_proof: Callable[[], Awaitable[None]] = nothing

    def __repr__(self) -> str:
        """Name the client; the form holds credentials."""
        return f"ClientCall({None if self.client is None else self.client.client_id!r})"


class JsonAnswer(msgspec.Struct, frozen=True):
    """A successful answer. `nonce` is for the next proof (RFC 9449 section 8.2)."""

    body: Mapping[str, object]
    status: int = 200
    nonce: str | None = None

    def __repr__(self) -> str:
        """Leave out what may be tokens."""
        return f"JsonAnswer(status={self.status}, {sorted(self.body)})"


class FormRefused(msgspec.Struct, frozen=True):
    """A refusal as the client may learn it. `with_header`: it tried to authenticate by an Authorization header."""

    code: ErrorCode
    with_header: bool
    nonce: str | None = None
    description: str | None = None


Answer = JsonAnswer | FormRefused


class Proofs(Protocol):
    """Verifies DPoP proofs (RFC 9449)."""

    def verify(self, proofs: Sequence[str], path: str, now: int) -> VerifiedProof | None:
        """The proof of a POST to this endpoint, None without one. It changes nothing.

        Raises:
            GateError: DPOP_INVALID, DPOP_NONCE_REQUIRED.
        """
        ...

    async def redeem(self, proof: VerifiedProof, now: int) -> None:
        """Use a proof up.

        Raises:
            GateError: DPOP_INVALID if it was used before; STORE_UNAVAILABLE.
        """
        ...

    def nonce(self, now: int) -> str:
        """The nonce that the next proof must hold."""
        ...


class _Once:
    """Uses a proof up at the first call."""

    def __init__(self, proofs: Proofs, proof: VerifiedProof, now: int) -> None:
        self._proofs = proofs
        self._proof: VerifiedProof | None = proof
        self._now = now

    async def __call__(self) -> None:
        if self._proof is not None:
            await self._proofs.redeem(self._proof, self._now)
            self._proof = None


class Forms:
    """Serves form posts. `issuer` names the authorization server in audit events."""

    def __init__(
        self, issuer: str, authenticator: ClientAuthenticator, proofs: Proofs, refusals: Refusals, clock: Clock
    ) -> None:
        self._issuer = issuer
        self._authenticator = authenticator
        self._proofs = proofs
        self._refusals = refusals
        self._clock = clock

    async def serve(
        self,
        request: FormRequest,
        respond: Callable[[ClientCall], Awaitable[JsonAnswer]],
        *,
        anonymous: Callable[[Mapping[str, str]], bool] | None = None,
        refused: EventKind = EventKind.TOKEN_REFUSED,
    ) -> Answer:
        """Answer one request. `anonymous` says of which forms no client needs to be named."""
        now, trace = self._clock.now(), Trace()
        nonce = None
        try:
            form = parse_body(request)
            proof = self._proofs.verify(request.proofs, request.path, now)
            nonce = self._proofs.nonce(now) if request.proofs else None
            client = agent = method = None
            if anonymous is None or not anonymous(form) or names_client(request.authorization, form):
                presented = parse_presented(request.authorization, form)
                method = presented.method
                client, agent = await self._authenticator.authenticate(presented, trace, now)
            use_proof = nothing if proof is None else _Once(self._proofs, proof, now)
            if client is not None:
                # After the authentication: who cannot authenticate can make the store remember nothing.
                await use_proof()
            thumbprint = None if proof is None else proof.thumbprint
            call = ClientCall(form, client, agent, method, thumbprint, now, request.address, trace, use_proof)
            answer = await respond(call)
            # Should an endpoint have forgotten it, nobody gets an answer twice for one proof.
            await use_proof()
            return msgspec.structs.replace(answer, nonce=nonce)
        except GateError as error:
            if error.code is ErrorCode.DPOP_NONCE_REQUIRED:
                nonce = self._proofs.nonce(now)
            try:
                # Nobody may be proven, so these are coalesced: a stranger must not be able to fill the disk.
                if error.code not in _UNRECORDED:
                    await self._refusals.record(self._event(refused, request, trace, error))
            except GateError as failure:
                error = failure
            described = error.data.get("description") if error.data else None
            return FormRefused(
                error.told if isinstance(error, RefusedAsError) else _told(error.code),
                bool(request.authorization),
                nonce,
                described if isinstance(described, str) else None,
            )

    def _event(self, kind: EventKind, request: FormRequest, trace: Trace, error: GateError) -> AuditEvent:
        return AuditEvent(
            kind=kind,
            at=self._clock.now_us(),
            address=request.address,
            issuer=self._issuer,
            tenant=trace.tenant,
            agent=trace.agent,
            client=trace.client,
            user=trace.user,
            method=trace.method,
            reason=error.code.value,
            detail=error.debug,
            anomaly=error.code is ErrorCode.GRANT_REUSED,
        )


def parse_body(request: FormRequest) -> Mapping[str, str]:
    """The form of a request.

    Raises:
        GateError: REQUEST_MALFORMED, TOO_LARGE, PARAMETER_REPEATED, RESOURCE_INVALID.
    """
    # "The parameters … MUST NOT be included in the request URI" (RFC 6749 section 2.3.1): addresses end up in logs.
    if request.query:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "this endpoint has no query")
    if len(request.content_type) != 1 or _FORM_TYPE.fullmatch(request.content_type[0]) is None:
        raise GateError(ErrorCode.REQUEST_MALFORMED, "Content-Type is not application/x-www-form-urlencoded")
    return parse_form(request.body)


def _told(code: ErrorCode) -> ErrorCode:
    # Which step of the authentication failed is for the audit trail; the client hears one answer for all of them.
    return ErrorCode.CLIENT_INVALID if FACES[code].jsonrpc == GATE_ONE and code not in _TOLD else code
