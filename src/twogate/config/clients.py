"""The settings of OAuth clients: declared ones, allowed metadata documents, and dynamic registration (R-21, R-22)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from twogate.config.values import AgentKey, Duration, Entries, FetchedUrl, FilePath, NonEmpty, TenantName, matching
from twogate.core.oauth.cimd import MAX_CLIENT_ID, DomainRule, check_host, parse_client_id_url
from twogate.core.oauth.client_metadata import check_name
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.redirect_uri import parse_redirect_uri
from twogate.flows.authserver.clients import DEFAULT_GRANTS, ClientAuth, ClientKind, check_use, grant_name

_DAY: Final = 86400

DEFAULT_UNUSED: Final = 30 * _DAY
"""Seconds that a registered client may go without a token."""

_DOMAIN: Final = re.compile(r"(?P<below>\*\.)?(?P<host>[^:*]+)(?::(?P<port>[1-9][0-9]{0,4}))?")
_HTTPS_PORT: Final = 443
_MAX_PORT: Final = 65535


def parse_grant(value: object) -> object:
    """The grant that settings and commands call by its short name, such as `device_code`.

    Raises:
        ValueError: It is not one.
    """
    for grant in GrantType:
        if value in (grant, grant_name(grant)):
            return grant
    raise ValueError(f"must be one of: {', '.join(sorted(grant_name(grant) for grant in GrantType))}")


def parse_domain(value: str) -> DomainRule:
    """The hosts that `app.example.com`, `app.example.com:8443` or `*.example.com` name.

    Raises:
        ValueError: The text is none of these.
    """
    match = _DOMAIN.fullmatch(value)
    if match is None:
        raise ValueError("must be a host such as app.example.com or app.example.com:8443, or *.example.com")
    # Two labels at least, so that nobody lets in all of *.com; a public suffix such as *.co.uk is for people to notice.
    check_host(match["host"])
    port = int(match["port"] or _HTTPS_PORT)
    if match["port"] == str(_HTTPS_PORT) or port > _MAX_PORT:
        raise ValueError("leaves the port 443 out, and has none beyond 65535")
    return DomainRule(match["host"], port, match["below"] is not None)


def _domain(value: str) -> str:
    parse_domain(value)
    return value


def _document_url(value: str) -> str:
    return parse_client_id_url(value).text


def _redirect_uri(value: str) -> str:
    return parse_redirect_uri(value).text


ClientId = Annotated[
    str,
    matching(
        rf"(?!https?://)[A-Za-z0-9][A-Za-z0-9._~:/@+-]{{0,{MAX_CLIENT_ID - 1}}}",
        f"a client's id is 1 to {MAX_CLIENT_ID} letters, digits and . _ ~ : / @ + -; URLs belong under cimd",
    ),
]
ClientName = Annotated[str, AfterValidator(check_name)]
RedirectUriText = Annotated[str, AfterValidator(_redirect_uri)]
GrantName = Annotated[GrantType, BeforeValidator(parse_grant)]


class ClientSettings(BaseModel):
    """A client that the configuration declares."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: TenantName
    kind: ClientKind
    auth: ClientAuth
    name: ClientName | None = None
    agent: AgentKey | None = None
    jwks_file: FilePath | None = None
    jwks_uri: FetchedUrl | None = None
    secret_file: FilePath | None = None
    secret_digest_file: FilePath | None = None
    redirect_uris: NonEmpty[RedirectUriText] = ()
    # The one other client that may exchange the tokens of its people.
    may_act: ClientId | None = None
    # Of an authorizer: the agents and tools that it may issue operation tokens for.
    agents: NonEmpty[AgentKey] = ()
    tools: Entries = ()
    # Left out: what the kind usually needs.
    grants: NonEmpty[GrantName] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.kind is ClientKind.AGENT) and self.agent is None:
            raise ValueError("a client of kind agent says whose it is: `agent: tenant/name`")
        if self.kind in (ClientKind.AUTHORIZER, ClientKind.PUBLIC) and self.agent is not None:
            raise ValueError(f"a client of kind {self.kind.value} has no `agent`")
        if self.agent is not None and self.agent.partition("/")[0] != self.tenant:
            raise ValueError("`agent` belongs to another tenant")
        keys = [self.jwks_file, self.jwks_uri]
        secrets = [self.secret_file, self.secret_digest_file]
        if sum(item is not None for item in keys) != (self.auth is ClientAuth.PRIVATE_KEY_JWT):
            raise ValueError("`auth: private_key_jwt` goes with exactly one of `jwks_file` and `jwks_uri`")
        if sum(item is not None for item in secrets) != (self.auth is ClientAuth.CLIENT_SECRET):
            raise ValueError("`auth: client_secret` goes with exactly one of `secret_file` and `secret_digest_file`")
        check_use(self.kind, self.auth, self.effective_grants, self.redirect_uris)
        self._check_lists()
        return self

    def _check_lists(self) -> None:
        if self.kind is ClientKind.AUTHORIZER and not (self.agents and self.tools):
            raise ValueError("a client of kind authorizer lists the `agents` and `tools` that it decides about")
        if self.kind is not ClientKind.AUTHORIZER and (self.agents or self.tools):
            raise ValueError(f"a client of kind {self.kind.value} has neither `agents` nor `tools`")
        if any(name.partition("/")[0] != self.tenant for name in self.agents):
            raise ValueError("one of `agents` belongs to another tenant")

    @property
    def effective_grants(self) -> frozenset[GrantType]:
        """The grants that it may use."""
        return frozenset(self.grants) or DEFAULT_GRANTS[self.kind]

    @property
    def files(self) -> dict[str, Path]:
        """The files that hold its keys or secret, by setting."""
        named = {name: getattr(self, name) for name in ("jwks_file", "secret_file", "secret_digest_file")}
        return {name: path for name, path in named.items() if path is not None}


class DocumentSettings(BaseModel):
    """Client ID metadata documents that are let in: one by its whole URL, or those of a domain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tenant: TenantName
    client_id: Annotated[str, AfterValidator(_document_url)] | None = None
    domain: Annotated[str, AfterValidator(_domain)] | None = None
    agent: AgentKey | None = None

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if (self.client_id is None) == (self.domain is None):
            raise ValueError("needs exactly one of `client_id` and `domain`")
        if self.agent is not None and self.client_id is None:
            # Whoever can place a page anywhere on the domain would be the agent.
            raise ValueError("`agent` goes with a whole `client_id`: a domain has many documents, an agent is one")
        if self.agent is not None and self.agent.partition("/")[0] != self.tenant:
            raise ValueError("`agent` belongs to another tenant")
        return self


class RegistrationSettings(BaseModel):
    """Dynamic registration (RFC 7591). `unused` in seconds; `clients` and `per_hour` bound what strangers can do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["token", "open"]
    tenant: TenantName
    unused: Annotated[Duration, Field(ge=_DAY, le=365 * _DAY)] = DEFAULT_UNUSED
    clients: Annotated[int, Field(ge=1, le=100_000)] = 1000
    per_hour: Annotated[int, Field(ge=1, le=10_000)] = 20
