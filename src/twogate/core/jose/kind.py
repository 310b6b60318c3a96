"""Which kind of token a JWT is, so that an ID token or a refresh token never passes for an access token.

RFC 9068 gives access tokens a `typ` of their own, `at+jwt`. Many issuers write `JWT` or nothing, for their ID tokens
too. Then the claims must tell the kinds apart (RFC 8725 section 3.12).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.claims import resolve_pointer
from twogate.core.jose.jwt import SignedClaims

ACCESS_TOKEN_TYPE: Final = "at+jwt"

# Claims in which some issuers say what a token is, and how they call access tokens there: Keycloak's `typ` (its other
# tokens say `ID`, `Refresh`, `Offline`, `Logout`, …) and Amazon Cognito's `token_use`.
_STATED: Final[Mapping[str, frozenset[str]]] = {
    "typ": frozenset({"Bearer", "DPoP"}),
    "token_use": frozenset({"access"}),
}

# What only ID tokens have (OpenID Connect Core sections 2 and 3.3.2.11; `s_hash` by FAPI), and what only logout and
# security event tokens have (RFC 8417 section 2.2).
_FOREIGN_CLAIMS: Final = ("nonce", "at_hash", "c_hash", "s_hash", "events")


def media_type(typ: str | None) -> str | None:
    """A JOSE `typ` as it is compared: lower case, without `application/` (RFC 7515 section 4.1.9); None if absent."""
    return None if typ is None else typ.lower().removeprefix("application/")


def require_access_token(signed: SignedClaims, client_pointer: str) -> None:
    """Refuse a token that is something else than an access token.

    1. what the issuer says of the kind in a claim must be an access token; 2. a token that says so there, or by the
    type `at+jwt`, is one; 3. any other has no claim that only ID tokens or event tokens have; 4. nor is it for its own
    client, as every ID token is (OpenID Connect Core section 2: `aud` "MUST contain the OAuth 2.0 client_id").
    `client_pointer` is where the issuer's tokens name the client.

    Raises:
        GateError: TOKEN_TYPE_REFUSED.
    """
    claims = signed.claims
    # 1.
    stated = {name: claims[name] for name in _STATED if claims.get(name) is not None}
    for name, value in stated.items():
        if not isinstance(value, str) or value not in _STATED[name]:
            raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, f"claim {name} says that it is no access token")
    # 2.
    if stated or media_type(signed.type) == ACCESS_TOKEN_TYPE:
        return
    # 3.
    for name in _FOREIGN_CLAIMS:
        if name in claims:
            raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, f"claim {name} is one of other tokens than access tokens")
    # 4.
    clients = [resolve_pointer(claims, client_pointer), claims.get("azp"), claims.get("client_id")]
    if any(isinstance(client, str) and client in _audiences(claims) for client in clients):
        raise GateError(ErrorCode.TOKEN_TYPE_REFUSED, "aud holds the client itself, as in an ID token")


def _audiences(claims: Mapping[str, Any]) -> list[object]:
    audience: object = claims.get("aud")
    return cast("list[object]", audience) if isinstance(audience, list) else [audience]
