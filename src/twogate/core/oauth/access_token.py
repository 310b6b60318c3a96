"""Access tokens of this server: JWTs of type `at+jwt` (RFC 9068). Pure: the signature comes from outside."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Final

import msgspec

TYPE: Final = "at+jwt"

DEFAULT_LIFETIME: Final = 300
"""Seconds that an access token lives unless the configuration says otherwise."""

MAX_LIFETIME: Final = 3600
"""Seconds that an access token may live at most."""

JTI_BYTES: Final = 16
"""Random bytes in a token's identifier."""


class AccessTokenGrant(msgspec.Struct, frozen=True):
    """What a token says: who (`client_id` of `tenant`), for what (`resource`, `scopes`), how long. Unix seconds."""

    issuer: str
    client_id: str
    tenant: str
    resource: str
    scopes: tuple[str, ...]
    issued_at: int
    lifetime: int
    jti: str

    @property
    def claims(self) -> dict[str, str | int]:
        """The token's claims (RFC 9068 section 2.2). Without a user `sub` is the client; `aud` is one string."""
        claims: dict[str, str | int] = {
            "iss": self.issuer,
            "sub": self.client_id,
            "client_id": self.client_id,
            "aud": self.resource,
            "iat": self.issued_at,
            "nbf": self.issued_at,
            "exp": self.issued_at + self.lifetime,
            "jti": self.jti,
            "tenant": self.tenant,
        }
        if self.scopes:
            claims["scope"] = " ".join(self.scopes)
        return claims


def encode_base64url(raw: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def signing_input(claims: Mapping[str, str | int], *, algorithm: str, kid: str, typ: str) -> bytes:
    """Header and claims of a compact JWS, as they are signed (RFC 7515 section 5.1)."""
    header = {"alg": algorithm, "kid": kid, "typ": typ}
    parts = (encode_base64url(msgspec.json.encode(part)) for part in (header, claims))
    return ".".join(parts).encode("ascii")


def join_signature(signed: bytes, signature: bytes) -> str:
    """The compact JWS of a signing input and its signature."""
    return f"{signed.decode('ascii')}.{encode_base64url(signature)}"
