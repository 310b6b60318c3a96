"""The settings of external authorization servers, whose access tokens gate one accepts (DESIGN decision 2)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from twogate.config.values import (
    Duration,
    FetchedUrl,
    FilePath,
    Identifier,
    IssuerUrl,
    MediaSubtype,
    Name,
    NonEmpty,
    Pointer,
    ResourcePath,
    TenantName,
)

# The `typ` of tokens that are no access tokens (RFC 8725 section 3.11): accepting one would confuse the two.
FOREIGN_TYPES: Final = frozenset(
    {
        "op+jwt", "dpop+jwt", "logout+jwt", "secevent+jwt", "oauth-id-jag+jwt", "client-authentication+jwt",
        "oauth-authz-req+jwt", "token-introspection+jwt", "kb+jwt",
    }
)  # fmt: skip


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Algorithm(StrEnum):
    """Signature algorithms that an issuer's tokens may have."""

    RS256 = "RS256"
    PS256 = "PS256"
    ES256 = "ES256"
    EDDSA = "EdDSA"
    ED25519 = "Ed25519"


class Introspection(_Model):
    """How to ask an issuer about a token (RFC 7662): as which client, and for how many seconds its word is kept."""

    client_id: Identifier
    client_secret_file: FilePath | None = None
    private_key_file: FilePath | None = None
    private_key_id: Identifier | None = None
    # Left out: its metadata say.
    endpoint: FetchedUrl | None = None
    cache: Annotated[Duration, Field(ge=1, le=300)] = 10

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if (self.client_secret_file is None) == (self.private_key_file is None):
            raise ValueError("needs exactly one of `client_secret_file` and `private_key_file`")
        if self.private_key_id is not None and self.private_key_file is None:
            raise ValueError("private_key_id names the key in private_key_file, which is missing")
        return self


class Claims(_Model):
    """Where an issuer's tokens hold what gate one needs; JSON pointers (RFC 6901)."""

    agent: Pointer
    tenant: Pointer | None = None
    role: Pointer | None = None
    user: Pointer | None = None
    # Whether tokens without the user claim count as the agent alone; else they are refused.
    user_optional: bool = False
    groups: Pointer | None = None
    scope: Pointer | None = "/scope"
    session: Pointer | None = None
    device: Pointer | None = None

    @field_validator("agent", "user")
    @classmethod
    def _current_actor(cls, pointer: str | None) -> str | None:
        # RFC 8693 section 4.1: earlier actors "are not to be considered in access control decisions".
        if pointer is not None and pointer.startswith("/act/act/"):
            raise ValueError("points at an earlier actor, who decides nothing; the current one is at /act/sub")
        return pointer


class Issuer(_Model):
    """An external authorization server, and the only tenants and roles it may assert. Lifetime in seconds.

    `validate` says how its tokens are checked: by signature, by asking it, or both.
    """

    issuer: IssuerUrl
    # Of its signatures; left out exactly where none is checked.
    algorithms: NonEmpty[Algorithm] = ()
    validation: Literal["jwt", "introspect", "both"] = Field("jwt", alias="validate")
    introspection: Introspection | None = None
    tenants: NonEmpty[TenantName]
    claims: Claims
    # Left out: it asserts no role.
    roles: NonEmpty[Name] = ()
    jwks_uri: FetchedUrl | None = None
    ca: FilePath | None = None
    types: NonEmpty[MediaSubtype] = ("at+jwt",)
    # What it calls a resource where it cannot call it by its URL.
    audiences: Mapping[ResourcePath, Identifier] = Field(default_factory=dict)
    max_lifetime: Annotated[Duration, Field(ge=1, le=86400)] = 3600
    # Whether each of its tokens is good for one request; they need a `jti` then.
    one_time: bool = False
    # Whether its users' tokens may be exchanged for ours.
    exchange: bool = False

    @field_validator("types")
    @classmethod
    def _no_foreign_types(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        for name in types:
            if name.lower().removeprefix("application/") in FOREIGN_TYPES:
                raise ValueError(f"{name} marks tokens that are no access tokens")
        return types

    @model_validator(mode="after")
    def _can_be_checked(self) -> Issuer:
        if (self.validation == "introspect") != (not self.algorithms):
            raise ValueError("algorithms are required, but for `validate: introspect`, which checks no signature")
        if (self.validation == "jwt") != (self.introspection is None):
            raise ValueError("introspection says how to ask, and goes with `validate: introspect` or `both`")
        return self

    @model_validator(mode="after")
    def _claims_fit(self) -> Issuer:
        if self.claims.tenant is None and len(self.tenants) != 1:
            raise ValueError("several tenants need claims.tenant, which says to whom a token belongs")
        if self.claims.user_optional and self.claims.user is None:
            raise ValueError("claims.user_optional says something of claims.user, which is missing")
        if self.exchange and self.claims.user is None:
            raise ValueError("exchange needs claims.user: only a token that names a user can be exchanged")
        if self.roles and self.claims.role is None:
            raise ValueError("roles are listed but claims.role, which says where tokens hold them, is not")
        if len(set(self.audiences.values())) != len(self.audiences):
            raise ValueError("audiences gives two resources one name: a token for one would be good at the other")
        return self
