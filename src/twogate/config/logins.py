"""The settings of the providers at which people may log in (row R-24)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from twogate.config.values import (
    FilePath,
    GroupName,
    Identifier,
    IssuerUrl,
    Name,
    NonEmpty,
    Pointer,
    ScopeName,
    TenantName,
    matching,
)
from twogate.core.jose.keys import Algorithm

# What the protocol itself says in an authorization request. `request` and `request_uri` would replace all of it.
RESERVED: Final = frozenset(
    {
        "client_id", "client_secret", "client_assertion", "client_assertion_type", "response_type", "response_mode",
        "redirect_uri", "scope", "state", "nonce", "code_challenge", "code_challenge_method", "request", "request_uri",
        "max_age", "dpop_jkt", "id_token_hint", "registration",
    }
)  # fmt: skip

ParameterName = Annotated[str, matching(r"[a-z][a-z0-9_]{0,63}", "a parameter is 1 to 64 of a-z 0-9 _")]
ParameterValue = Annotated[str, matching(r"[ -~]{1,256}", "must be 1 to 256 printable ASCII characters")]
Label = Annotated[str, matching(r"[^\x00-\x1f\x7f]{1,64}", "must be 1 to 64 characters, no control ones")]


class LoginClaims(BaseModel):
    """Where the provider's ID tokens hold what is kept of a person; JSON pointers (RFC 6901)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Pointer = "/preferred_username"
    display_name: Pointer | None = "/name"
    groups: Pointer | None = None


class LoginAllow(BaseModel):
    """Who of a provider's people may log in: members of one of `groups`, or, said outright, `anyone` it vouches for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: NonEmpty[GroupName] = ()
    anyone: Literal[True] | None = None

    @model_validator(mode="after")
    def _says_who(self) -> Self:
        if bool(self.groups) == bool(self.anyone):
            raise ValueError("needs exactly one of `groups: […]` and `anyone: true`")
        return self


class LoginProvider(BaseModel):
    """An upstream OpenID provider at which people of some tenants log in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Part of the redirect URI that is registered there.
    name: Name
    label: Label
    issuer: IssuerUrl
    client_id: Identifier
    tenants: NonEmpty[TenantName]
    allow: LoginAllow
    algorithms: NonEmpty[Algorithm]
    client_secret_file: FilePath | None = None
    private_key_file: FilePath | None = None
    private_key_id: Identifier | None = None
    assertion_audience: Literal["issuer", "token_endpoint"] = "issuer"
    scopes: NonEmpty[ScopeName] = ("openid", "profile")
    # Added to the authorization request, such as Google's `access_type: offline`.
    parameters: Mapping[ParameterName, ParameterValue] = Field(default_factory=dict)
    claims: LoginClaims = LoginClaims()
    ca: FilePath | None = None

    @field_validator("scopes")
    @classmethod
    def _openid(cls, scopes: tuple[str, ...]) -> tuple[str, ...]:
        if "openid" not in scopes:
            raise ValueError("must have openid: without it there is no ID token (OpenID Connect Core section 3.1.2.1)")
        return scopes

    @field_validator("parameters")
    @classmethod
    def _ours(cls, parameters: Mapping[str, str]) -> Mapping[str, str]:
        for name in parameters:
            if name in RESERVED:
                raise ValueError(f"{name} is set by Twogate itself")
        return parameters

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.client_secret_file is None) == (self.private_key_file is None):
            raise ValueError("needs exactly one of `client_secret_file` and `private_key_file`")
        if self.private_key_id is not None and self.private_key_file is None:
            raise ValueError("private_key_id names the key in private_key_file, which is missing")
        if self.allow.groups and self.claims.groups is None:
            raise ValueError("allow.groups needs claims.groups, which says where ID tokens hold them")
        return self
