"""Telling an MCP server who calls it, in a token for that server alone (row R-46)."""

from __future__ import annotations

from typing import Final

from twogate.core.identity import HEADER, LIFETIME, TYPE, Identity, identity_claims
from twogate.core.oauth.access_token import encode_base64url
from twogate.flows.environment import Clock, Rng
from twogate.flows.gateway.admit import Admitted
from twogate.flows.gateway.exchange import Header
from twogate.flows.signer import Signer, sign_jwt

_NAME: Final = HEADER.lower().encode()
_JTI_BYTES: Final = 16


class Identifier:
    """Makes the header for calls that were admitted, and for no others."""

    def __init__(self, issuer: str, signer: Signer, clock: Clock, rng: Rng) -> None:
        self._issuer = issuer
        self._signer = signer
        self._clock = clock
        self._rng = rng

    async def header(self, admitted: Admitted) -> Header:
        """The header, with a token of its own for this call.

        Raises:
            GateError: KEYS_UNAVAILABLE.
        """
        call, session, now = admitted.call, admitted.session, self._clock.now()
        principal = call.principal
        identity = Identity(
            tenant=principal.tenant,
            agent=principal.agent.id.agent,
            role=principal.agent.role,
            jti=encode_base64url(self._rng.token(_JTI_BYTES)),
            issued_at=now,
            expires_at=now + LIFETIME,
            user_issuer=None if principal.user is None else principal.user.issuer,
            user=None if principal.user is None else principal.user.subject,
            session=None if session is None else session.id,
            task=None if session is None else session.task,
        )
        claims = identity_claims(identity, self._issuer, call.head.server)
        return _NAME, (await sign_jwt(self._signer, claims, TYPE)).encode()
