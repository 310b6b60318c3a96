"""`Twogate-Identity`: a short-lived JWT that tells one MCP server who calls it (row R-46; DESIGN decision 14).

It is no credential for anything of ours: its type is no access token's, and its audience names an upstream, which is no
resource. So a server that passes it on, or keeps it, can be nobody here; and at another server it is refused, because
its audience is the one that it was made for.
"""

from __future__ import annotations

from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import string_at, time_at
from twogate.core.jose.jwt import parse_jwt, verify_jwt
from twogate.core.jose.keys import Algorithm, parse_jwks

HEADER: Final = "Twogate-Identity"
TYPE: Final = "twogate-identity+jwt"

LIFETIME: Final = 60
"""Seconds that it is good for."""

LEEWAY: Final = 5
"""Seconds that the clocks of gateway and server may differ."""

ALGORITHMS: Final = frozenset({Algorithm.ES256, Algorithm.RS256})
"""What a gateway signs with."""


class Identity(msgspec.Struct, frozen=True):
    """Who calls, and within what. Times are Unix seconds; what is not there is None.

    `agent` is the agent of `tenant`, with its `role`; `user_issuer` and `user` name the person behind it; `session` is
    the session of the declared `task`. `jti` is new with every call.
    """

    tenant: str
    agent: str
    role: str
    jti: str
    issued_at: int
    expires_at: int
    user_issuer: str | None = None
    user: str | None = None
    session: str | None = None
    task: str | None = None


def identity_audience(issuer: str, server: str) -> str:
    """How the token names the server that it is for. No resource of the gateway is called so."""
    return f"{issuer}/upstream/{server}"


def identity_claims(identity: Identity, issuer: str, server: str) -> dict[str, object]:
    """The claims. `sub` is the agent as `tenant/agent`; the person is `user`, an object of `iss` and `sub`."""
    claims: dict[str, object] = {
        "iss": issuer,
        "aud": identity_audience(issuer, server),
        "sub": f"{identity.tenant}/{identity.agent}",
        "iat": identity.issued_at,
        "exp": identity.expires_at,
        "jti": identity.jti,
        "tenant": identity.tenant,
        "agent": identity.agent,
        "role": identity.role,
    }
    if identity.user is not None:
        claims["user"] = {"iss": identity.user_issuer, "sub": identity.user}
    if identity.session is not None:
        claims |= {"sid": identity.session, "task": identity.task}
    return claims


def verify_identity(token: str, *, jwks: bytes, issuer: str, server: str, now: int) -> Identity:
    """Who calls, for the server that asks.

    `token` is the header's value, `jwks` the gateway's key set (`{issuer}/.well-known/jwks.json`), `issuer` its
    `public_url`, `server` the server's name in the gateway's configuration, `now` Unix seconds. The caller keeps `jti`
    if the same token must not come twice.

    Raises:
        GateError: why the token must not be believed.
    """
    jwt = parse_jwt(token)
    if jwt.unverified_type != TYPE:
        raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, "typ is another")
    claims = verify_jwt(jwt, parse_jwks(jwks), ALGORITHMS).claims
    if claims.get("iss") != issuer:
        raise GateError(ErrorCode.ISSUER_UNKNOWN, "iss is another gateway")
    if claims.get("aud") != identity_audience(issuer, server):
        raise GateError(ErrorCode.AUDIENCE_MISMATCH, "aud is another server")
    issued_at, expires_at = time_at(claims, "iat"), time_at(claims, "exp")
    if issued_at is None or expires_at is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "iat and exp are required")
    if now >= expires_at + LEEWAY:
        raise GateError(ErrorCode.TOKEN_EXPIRED)
    if issued_at > now + LEEWAY:
        raise GateError(ErrorCode.TOKEN_NOT_YET_VALID)
    if expires_at - issued_at > LIFETIME:
        raise GateError(ErrorCode.TOKEN_LIFETIME_EXCESSIVE, "lives too long")
    tenant, agent, role, jti = (string_at(claims, pointer) for pointer in ("/tenant", "/agent", "/role", "/jti"))
    if tenant is None or agent is None or role is None or jti is None:
        raise GateError(ErrorCode.CLAIM_MISSING, "tenant, agent, role and jti are required")
    return Identity(
        tenant=tenant,
        agent=agent,
        role=role,
        jti=jti,
        issued_at=issued_at,
        expires_at=expires_at,
        user_issuer=string_at(claims, "/user/iss"),
        user=string_at(claims, "/user/sub"),
        session=string_at(claims, "/sid"),
        task=string_at(claims, "/task"),
    )
