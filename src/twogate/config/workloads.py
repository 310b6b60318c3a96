"""The settings of those who vouch for others by JWT assertions: for workloads, and for a company's people."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from twogate.config.values import (
    Duration,
    FetchedUrl,
    FilePath,
    IssuerUrl,
    NonEmpty,
    Pointer,
    TenantName,
    VouchingIssuer,
)
from twogate.core.jose.keys import Algorithm
from twogate.core.oauth.id_jag import IdJagIssuer
from twogate.core.oauth.workload_token import WorkloadIssuer, WorkloadKind, is_trust_domain

_HOUR = 3600


class Workloads(BaseModel):
    """A platform whose workloads may present the tokens that it gives them. Lifetime in seconds.

    Which workload is which agent stands at the agents, as bindings to this issuer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: VouchingIssuer
    kind: WorkloadKind
    algorithms: NonEmpty[Algorithm]
    tenants: NonEmpty[TenantName]
    jwks_uri: FetchedUrl | None = None
    jwks_file: FilePath | None = None
    ca: FilePath | None = None
    max_lifetime: Annotated[Duration, Field(ge=1, le=24 * _HOUR)] = _HOUR

    @model_validator(mode="after")
    def _fits(self) -> Self:
        spiffe = self.kind is WorkloadKind.SPIFFE
        if spiffe != is_trust_domain(self.issuer):
            raise ValueError("a SPIFFE trust domain, spiffe://…, goes with `kind: spiffe` and with nothing else")
        if self.jwks_uri is not None and self.jwks_file is not None:
            raise ValueError("has both `jwks_uri` and `jwks_file`; its keys come from one place")
        if spiffe and self.jwks_uri is None and self.jwks_file is None:
            raise ValueError("needs `jwks_uri` or `jwks_file`: the keys of a trust domain cannot be discovered")
        if self.jwks_file is not None and self.ca is not None:
            raise ValueError("ca is of no use with `jwks_file`, which nobody connects to")
        return self

    @property
    def trusted(self) -> WorkloadIssuer:
        """What the operator lets this platform say, in the core's terms."""
        return WorkloadIssuer(
            self.issuer, self.kind, frozenset(self.algorithms), frozenset(self.tenants), self.max_lifetime
        )


class AssertedClaims(BaseModel):
    """Where assertions hold what is kept of a person; JSON pointers (RFC 6901)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Pointer | None = None
    groups: Pointer | None = None


class IdentityAssertions(BaseModel):
    """A company's identity provider whose ID-JAGs are taken: it says who a person is, and which client acts for them.

    Lifetime in seconds. Its people are people of `tenant`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer: IssuerUrl
    tenant: TenantName
    algorithms: NonEmpty[Algorithm]
    jwks_uri: FetchedUrl | None = None
    ca: FilePath | None = None
    claims: AssertedClaims = AssertedClaims()
    max_lifetime: Annotated[Duration, Field(ge=1, le=_HOUR)] = 300

    @property
    def trusted(self) -> IdJagIssuer:
        """What the operator lets this provider say, in the core's terms."""
        return IdJagIssuer(
            self.issuer,
            self.tenant,
            frozenset(self.algorithms),
            self.max_lifetime,
            self.claims.name,
            self.claims.groups,
        )
