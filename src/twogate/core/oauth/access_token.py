"""Access tokens of this server: JWTs of type `at+jwt` (RFC 9068). Pure: the signature comes from outside."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from twogate.core.oauth.authorization_details import details_of

TYPE: Final = "at+jwt"

DEFAULT_LIFETIME: Final = 300
"""Seconds that an access token lives unless the configuration says otherwise."""

MAX_LIFETIME: Final = 3600
"""Seconds that an access token may live at most."""

JTI_BYTES: Final = 16
"""Random bytes in a token's identifier."""


class AccessTokenGrant(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says: who (`client_id` of `tenant`), for what (`resource`, `scopes`), how long. Unix seconds.

    `agent` is the agent that the client acts as, where no binding says so. `user` is the person behind it, with `roles`
    and `groups`; `act` who acts for that person, and `may_act` the client that may come to (RFC 8693 sections 4.1
    and 4.4). `proof_key` is the thumbprint of the key that
    the token is bound to (RFC 9449 section 6.1). `grant_id` names the grant, by which the token can be revoked.
    """

    issuer: str
    client_id: str
    tenant: str
    resource: str
    scopes: tuple[str, ...]
    issued_at: int
    lifetime: int
    jti: str
    agent: str | None = None
    user: str | None = None
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    act: Mapping[str, Any] | None = None
    may_act: str | None = None
    session_id: str | None = None
    task: str | None = None
    proof_key: str | None = None
    grant_id: str | None = None
    authenticated_at: int | None = None

    @property
    def claims(self) -> dict[str, object]:
        """The token's claims (RFC 9068 section 2.2). Without a user `sub` is the client; `aud` is one string.

        `user` repeats a person's `sub`, so that nobody has to guess whether there is a person.
        """
        claims: dict[str, object] = {
            "iss": self.issuer,
            "sub": self.client_id if self.user is None else self.user,
            "client_id": self.client_id,
            "aud": self.resource,
            "iat": self.issued_at,
            "nbf": self.issued_at,
            "exp": self.issued_at + self.lifetime,
            "jti": self.jti,
            "tenant": self.tenant,
        }
        optional: dict[str, object] = {
            "scope": " ".join(self.scopes),
            "agent": self.agent,
            "user": self.user,
            "roles": list(self.roles),
            "groups": list(self.groups),
            "act": self.act,
            "may_act": None if self.may_act is None else {"sub": self.may_act},
            "sid": self.session_id,
            "cnf": None if self.proof_key is None else {"jkt": self.proof_key},
            "grant_id": self.grant_id,
            "auth_time": self.authenticated_at,
            "authorization_details": None if self.task is None else details_of(self.task),
        }
        return claims | {name: value for name, value in optional.items() if value}


def encode_base64url(raw: bytes) -> str:
    """Base64url without padding (RFC 7515 section 2)."""
    return urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def signing_input(claims: Mapping[str, object], *, algorithm: str, kid: str, typ: str) -> bytes:
    """Header and claims of a compact JWS, as they are signed (RFC 7515 section 5.1)."""
    header = {"alg": algorithm, "kid": kid, "typ": typ}
    parts = (encode_base64url(msgspec.json.encode(part)) for part in (header, claims))
    return ".".join(parts).encode("ascii")


def join_signature(signed: bytes, signature: bytes) -> str:
    """The compact JWS of a signing input and its signature."""
    return f"{signed.decode('ascii')}.{encode_base64url(signature)}"
