"""The settings: one frozen model of the configuration file. Unknown keys are refused (DESIGN decision 22).

Each model checks its own values; that names refer to something that exists is checked in `references`, with the whole
tree at hand. `config.file.load_settings` is the way from a file to a `Settings`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from twogate.config.approval import ApprovalChoice, ApprovalSettings
from twogate.config.arguments import Arguments
from twogate.config.authserver import Embedded
from twogate.config.clients import ClientId, ClientSettings, DocumentSettings, RegistrationSettings
from twogate.config.enforcement import ObserveUntil
from twogate.config.issuer import Issuer
from twogate.config.logins import LoginProvider
from twogate.config.notify import ChannelSettings
from twogate.config.policy_files import Policies
from twogate.config.secrets import Reference
from twogate.config.servers import Server
from twogate.config.shared_url import SQL, SharedUrl
from twogate.config.store_url import SQLITE, StoreUrl, is_postgresql
from twogate.config.values import (
    AgentKey,
    Duration,
    Entries,
    FilePath,
    GroupName,
    Identifier,
    Listen,
    Name,
    NonEmpty,
    Origin,
    ScopeName,
    ServerName,
    Size,
    Target,
    TenantName,
    VouchingIssuer,
)
from twogate.config.workloads import IdentityAssertions, Workloads
from twogate.core.access import ToolClass
from twogate.core.approval import Duty
from twogate.core.operation import DEFAULT_LIFETIME as DEFAULT_TOKEN_LIFETIME
from twogate.core.operation import MAX_LIFETIME as MAX_TOKEN_LIFETIME

EMBEDDED: Final = "embedded"
"""How a binding names the embedded authorization server, whose issuer is `public_url`."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(_Model):
    """The server's certificate (PEM, with its intermediates) and private key.

    `client_ca` holds the authorities of client certificates; without it none is asked for.
    """

    certificate: FilePath
    key: FilePath
    client_ca: FilePath | None = None
    # With client_ca: "optional" if it is left out.
    client_certificate: Literal["optional", "required"] | None = None

    @model_validator(mode="after")
    def _client_certificates(self) -> Tls:
        if self.client_certificate is not None and self.client_ca is None:
            raise ValueError("client_certificate needs `client_ca`, the authorities that issue client certificates")
        return self


class Tool(_Model):
    """How a tool, a prompt, or what a resource entry names is classified, and what of its arguments policies see."""

    tool_class: ToolClass = Field(alias="class")
    arguments: Arguments | None = None
    # How long an operation token for it is good, in seconds.
    token_lifetime: Annotated[Duration, Field(ge=5, le=MAX_TOKEN_LIFETIME)] = DEFAULT_TOKEN_LIFETIME
    # One rule, or several of which the first that counts is taken; without any, nobody is asked.
    approval: ApprovalChoice = ()

    @property
    def approvals(self) -> tuple[ApprovalSettings, ...]:
        """The rules, in their order."""
        return self.approval if isinstance(self.approval, tuple) else (self.approval,)


class RoleSettings(_Model):
    """What a role may call: lists of classes and entries of `tools`."""

    allow: Entries = ()
    token: Entries = ()
    deny: Entries = ()

    @model_validator(mode="after")
    def _decided_once(self) -> RoleSettings:
        if not self.allow and not self.token:
            raise ValueError("needs `allow` or `token`: a role without either may do nothing")
        for first, second in (("allow", "token"), ("allow", "deny"), ("token", "deny")):
            both = set(getattr(self, first)) & set(getattr(self, second))
            if both:
                raise ValueError(f"{min(both)!r} stands in both `{first}` and `{second}`")
        return self


class Task(_Model):
    """What a task needs, as classes and entries of `tools`."""

    tools: Entries


class BindingSettings(_Model):
    """The name by which an issuer's tokens, or the embedded server's clients, mean this agent."""

    issuer: Literal["embedded"] | VouchingIssuer
    client_id: Identifier | None = None
    subject: Identifier | None = None

    @model_validator(mode="after")
    def _one_name(self) -> BindingSettings:
        if (self.client_id is None) == (self.subject is None):
            raise ValueError("needs exactly one of `client_id` and `subject`")
        if self.issuer == EMBEDDED and self.client_id is None:
            raise ValueError("the embedded authorization server knows agents by `client_id`")
        return self

    @property
    def identifier(self) -> str:
        """The issuer's name for the agent."""
        return self.client_id or self.subject or ""


class AgentSettings(_Model):
    """A registered agent. `bindings` may be left out for the built-in `TENANT/public-client` only."""

    role: Name
    tasks: NonEmpty[Name]
    default_task: Name | None = None
    concurrent_tasks: Annotated[int, Field(ge=1, le=100)] = 1
    bindings: NonEmpty[BindingSettings] = ()


class GroupSettings(_Model):
    """What an identity provider's group grants its users."""

    role: Name | None = None
    scopes: NonEmpty[ScopeName] = ()

    @model_validator(mode="after")
    def _grants_something(self) -> GroupSettings:
        if self.role is None and not self.scopes:
            raise ValueError("needs `role` or `scopes`: a group without either grants nothing")
        return self


class TenantSettings(_Model):
    """The servers that a tenant's agents may reach; none if the list is left out.

    `tools`, `roles` and `tasks` are its own, beside the shared ones. `secrets` says where those for its servers are.
    """

    servers: NonEmpty[ServerName] = ()
    tools: Mapping[Target, Tool] = Field(default_factory=dict)
    roles: Mapping[Name, RoleSettings] = Field(default_factory=dict)
    tasks: Mapping[Name, Task] = Field(default_factory=dict)
    secrets: Mapping[ServerName, Reference] = Field(default_factory=dict)


class RateSettings(_Model):
    """Calls a second, and how many may come at once before that holds."""

    rate: Annotated[int, Field(ge=1, le=100_000)]
    burst: Annotated[int, Field(ge=1, le=100_000)]


class Limits(_Model):
    """Caps.

    `requests` (a second) and `burst` count per address, before authentication; `calls_per_agent` and
    `streams_per_agent` are how many calls and long-lived streams of one agent and user may be under way at once.
    `agent`, `tool` (of one agent) and `tenant` say how often calls may run; left out, there is no such limit.
    """

    body: Annotated[Size, Field(ge=1024, le=64 * 1024 * 1024)] = 4 * 1024 * 1024
    requests: Annotated[int, Field(ge=1, le=100_000)] = 200
    burst: Annotated[int, Field(ge=1, le=100_000)] = 400
    connections: Annotated[int, Field(ge=1, le=100_000)] = 2000
    calls_per_agent: Annotated[int, Field(ge=1, le=10_000)] = 32
    streams_per_agent: Annotated[int, Field(ge=1, le=10_000)] = 16
    connections_per_address: Annotated[int, Field(ge=1, le=100_000)] = 200
    agent: RateSettings | None = None
    tool: RateSettings | None = None
    tenant: RateSettings | None = None


class Audit(_Model):
    """How the audit trail is written. `fsync` makes it survive power loss, at a cost for each call."""

    fsync: bool = False


# The matrix of R-30, over classes.
SHIPPED_ROLES: Final[Mapping[str, RoleSettings]] = MappingProxyType(
    {
        "reader": RoleSettings(allow=("read", "search")),
        "analyst": RoleSettings(allow=("read", "search", "fetch")),
        "executor": RoleSettings(allow=("read", "search", "fetch"), token=("write", "send", "execute")),
        "admin": RoleSettings(
            allow=("read", "search", "fetch", "write", "send", "execute"), token=("secrets", "configure")
        ),
    }
)


class Settings(_Model):
    """Everything the configuration file says."""

    public_url: Origin
    listen: Listen
    store: StoreUrl
    # Of PostgreSQL: the file that holds the user's password, and the CAs trusted instead of the system's.
    store_password: FilePath | None = None
    store_ca: FilePath | None = None
    # Where replicas share used values and limits; of Redis and Valkey: the same two files.
    shared: SharedUrl = SQL
    shared_password: FilePath | None = None
    shared_ca: FilePath | None = None
    tenants: Annotated[Mapping[TenantName, TenantSettings], Field(min_length=1)]
    tls: Tls | None = None
    state: FilePath | None = None
    enforcement: Literal["enforce", "observe"] = "enforce"
    # Whether what nobody approved may be used, of tools, prompts and instructions.
    pins: Literal["approved", "required"] = "approved"
    observe_until: ObserveUntil | None = None
    issuers: Annotated[tuple[Issuer, ...], Field(min_length=1)] = ()
    embedded: Embedded = Embedded()
    logins: Annotated[tuple[LoginProvider, ...], Field(min_length=1)] = ()
    workloads: Annotated[tuple[Workloads, ...], Field(min_length=1)] = ()
    identity_assertions: Annotated[tuple[IdentityAssertions, ...], Field(min_length=1)] = ()
    servers: Mapping[ServerName, Server] = Field(default_factory=dict)
    tools: Mapping[Target, Tool] = Field(default_factory=dict)
    roles: Annotated[Mapping[Name, RoleSettings], Field(min_length=1, default_factory=lambda: dict(SHIPPED_ROLES))]
    tasks: Mapping[Name, Task] = Field(default_factory=dict)
    agents: Mapping[AgentKey, AgentSettings] = Field(default_factory=dict)
    clients: Mapping[ClientId, ClientSettings] = Field(default_factory=dict)
    cimd: Annotated[tuple[DocumentSettings, ...], Field(min_length=1)] = ()
    registration: RegistrationSettings | None = None
    groups: Mapping[GroupName, GroupSettings] = Field(default_factory=dict)
    # What people of a group may do in the console, beside their own duties.
    duties: Mapping[GroupName, Annotated[tuple[Duty, ...], Field(min_length=1)]] = Field(default_factory=dict)
    # How people learn of calls that wait for them.
    notify: Mapping[Name, ChannelSettings] = Field(default_factory=dict)
    scopes: Mapping[ScopeName, Entries] = Field(default_factory=dict)
    policies: Policies | None = None
    allowed_origins: NonEmpty[Origin] = ()
    limits: Limits = Limits()
    audit: Audit = Audit()

    @property
    def store_path(self) -> Path | None:
        """The SQLite database file; None if the store is PostgreSQL."""
        return None if is_postgresql(self.store) else Path(self.store.removeprefix(SQLITE))

    @property
    def state_directory(self) -> Path:
        """Where the audit trail, keys and sealed secrets live; the store's directory unless `state` says otherwise."""
        if self.state is not None:
            return self.state
        if self.store_path is None:
            raise ValueError("with PostgreSQL, `state` is required")
        return self.store_path.parent

    @cached_property
    def generation(self) -> str:
        """The start of the SHA-256 of the effective settings: equal exactly when they mean the same."""
        canonical = json.dumps(self.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]
