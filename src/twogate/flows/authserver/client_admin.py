"""Adding and removing clients, and letting clients register (R-21; DESIGN decisions 1 and 7)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final, Protocol

import msgspec

from twogate.core import strict_json
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.client_metadata import check_keys, check_name
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.redirect_uri import parse_redirect_uri
from twogate.core.principal import PUBLIC_CLIENT, Agent, AgentId, Binding, Method
from twogate.flows.audit import AuditSink
from twogate.flows.authserver.clients import (
    DEFAULT_GRANTS,
    Client,
    ClientAuth,
    ClientKind,
    ClientStore,
    SecretDigest,
    check_use,
)
from twogate.flows.authserver.register import Removal
from twogate.flows.authserver.registered import TOKEN_BYTES, digest_of, new_registration_token, text_of
from twogate.flows.environment import Clock, Rng

MAX_JWKS: Final = 64 * 1024
"""Bytes of a set of public keys."""

_MAX_DEPTH: Final = 8


class NewClient(msgspec.Struct, frozen=True):
    """What an operator asks for. `grants` empty: what the kind usually needs. `jwks` is a JWK set as it was given.

    `agents` and `tools` are an authorizer's.
    """

    client_id: str
    tenant: str
    kind: ClientKind
    auth: ClientAuth
    name: str = ""
    agent: AgentId | None = None
    redirect_uris: tuple[str, ...] = ()
    grants: frozenset[GrantType] = frozenset()
    jwks: bytes | None = None
    may_act: str | None = None
    agents: frozenset[AgentId] = frozenset()
    tools: frozenset[str] = frozenset()


class ClientCredentials(msgspec.Struct, frozen=True):
    """What the client needs. Secret and private key are shown this once and kept nowhere."""

    client: Client
    client_secret: str | None = None
    private_key_pem: str | None = None

    def __repr__(self) -> str:
        """Never the secret nor the key."""
        return f"ClientCredentials({self.client.client_id!r}, …)"


class KnownAgents(Protocol):
    """Tells the current agents and bindings; `flows.registry.Registry` does."""

    async def agent(self, agent: AgentId) -> Agent | None:
        """An agent as of now, disabled or not."""
        ...


class RegistrationTokens(Protocol):
    """Keeps the tokens that let clients register."""

    async def allow(self, digest: str, tenant: str, expires_at: int, now: int) -> None:
        """Let whoever holds the token of this digest register one client of the tenant, until `expires_at`."""
        ...


class ClientAdmin:
    """Operators' use cases on clients. `issuer` is how bindings name this server."""

    def __init__(
        self,
        issuer: str,
        *,
        clients: ClientStore,
        removal: Removal,
        tokens: RegistrationTokens,
        agents: KnownAgents,
        audit: AuditSink,
        clock: Clock,
        rng: Rng,
        new_key: Callable[[], tuple[str, str]],
    ) -> None:
        self._issuer = issuer
        self._clients = clients
        self._removal = removal
        self._tokens = tokens
        self._agents = agents
        self._audit = audit
        self._clock = clock
        self._rng = rng
        self._new_key = new_key

    async def add(
        self,
        new: NewClient,
        tenants: Collection[str],
        configured: Collection[str],
        bound: Mapping[Binding, AgentId],
        known_tools: Collection[str] = (),
    ) -> ClientCredentials:
        """Add a client to the store. `configured` and `bound` are the clients and bindings of the configuration.

        `known_tools` are the classes and entries that its tenant has, for an authorizer.

        Raises:
            GateError: REQUEST_MALFORMED with what is wrong; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        if new.tenant not in tenants:
            raise _wrong(f"there is no tenant {new.tenant!r}; tenants: {', '.join(sorted(tenants))}")
        if new.client_id in configured:
            raise _wrong(f"the client {new.client_id!r} is declared in the configuration; change it there")
        grants = new.grants or DEFAULT_GRANTS[new.kind]
        try:
            check_use(new.kind, new.auth, grants, new.redirect_uris)
            for uri in new.redirect_uris:
                parse_redirect_uri(uri)
            name = check_name(new.name) if new.name else ""
        except ValueError as error:
            raise _wrong(str(error)) from None
        agent = await self._agent(new)
        await self._check_lists(new, known_tools)
        binding = Binding(Method.JWT, self._issuer, new.client_id)
        owner = bound.get(binding)
        if owner is not None and (new.kind is not ClientKind.AGENT or owner != agent):
            # The configuration's binding would win, and the client's tokens would act as its agent.
            raise _wrong(f"the configuration binds the client id {new.client_id!r} to {owner}")
        if await self._clients.get(new.client_id) is not None:
            raise _wrong(f"there is a client {new.client_id!r} already; `twogate client list` shows it")
        secret = key = jwks = None
        if new.auth is ClientAuth.CLIENT_SECRET:
            secret = text_of(self._rng.token(TOKEN_BYTES))
        elif new.auth is ClientAuth.PRIVATE_KEY_JWT:
            key, jwks = self._new_key() if new.jwks is None else (None, _checked_jwks(new.jwks))
        now = self._clock.now()
        client = Client(
            client_id=new.client_id,
            may_act=new.may_act,
            tenant=new.tenant,
            agent=agent,
            auth=new.auth,
            secret_digests=() if secret is None else (SecretDigest(digest_of(secret)),),
            jwks=jwks,
            created_at=now,
            kind=new.kind,
            grants=grants,
            name=name,
            redirect_uris=new.redirect_uris,
            agents=new.agents,
            tools=new.tools,
        )
        await self._record(EventKind.CLIENT_ADDED, client, f"{new.kind.value}, {new.auth.value}")
        bindings = [binding] if new.kind is ClientKind.AGENT and owner is None else []
        await self._clients.add(client, None, bindings, now)
        return ClientCredentials(client, secret, key)

    async def remove(self, client_id: str, configured: Collection[str]) -> Client:
        """Remove a client of the store: its tokens are refused from the next request on.

        Raises:
            GateError: NOT_FOUND, REQUEST_MALFORMED for one that the configuration declares; STORE_UNAVAILABLE,
                AUDIT_UNAVAILABLE.
        """
        if client_id in configured:
            raise _wrong(f"the client {client_id!r} is declared in the configuration; remove it there")
        client = await self._clients.get(client_id)
        if client is None:
            raise GateError(
                ErrorCode.NOT_FOUND, f"there is no client {client_id!r} in the store; `twogate client list` shows them"
            )
        await self._record(EventKind.CLIENT_REMOVED, client, "")
        await self._removal.remove(client, self._clock.now())
        return client

    async def registration_token(self, tenant: str, lifetime: int) -> tuple[str, int]:
        """A token that lets one client register, and when it ends (Unix seconds). `lifetime` in seconds.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        token, digest = new_registration_token(self._rng)
        now = self._clock.now()
        expires_at = now + lifetime
        event = AuditEvent(
            kind=EventKind.LINK_ISSUED, at=self._clock.now_us(), tenant=tenant, detail="registration of one client"
        )
        await self._audit.append(event)
        await self._tokens.allow(digest, tenant, expires_at, now)
        return token, expires_at

    async def _agent(self, new: NewClient) -> AgentId | None:
        if new.kind in (ClientKind.AUTHORIZER, ClientKind.PUBLIC) and new.agent is not None:
            raise _wrong(f"--agent does not go with --kind {new.kind.value}")
        if new.kind is ClientKind.AUTHORIZER:
            return None
        if new.agent is None and new.kind is ClientKind.AGENT:
            raise _wrong("--kind agent needs --agent TENANT/NAME: whose client it is")
        agent = new.agent or AgentId(new.tenant, PUBLIC_CLIENT)
        if agent.tenant != new.tenant:
            raise _wrong(f"{agent} is an agent of another tenant")
        if new.kind is ClientKind.AGENT and agent.agent == PUBLIC_CLIENT:
            raise _wrong(f"{agent} is for clients without an agent; use --kind public")
        if await self._agents.agent(agent) is None:
            remedy = "add it to agents in the configuration, with a role and tasks"
            if agent.agent != PUBLIC_CLIENT:
                remedy = "`twogate agent list` shows them"
            raise _wrong(f"there is no agent {agent}; {remedy}")
        return agent

    async def _check_lists(self, new: NewClient, known_tools: Collection[str]) -> None:
        if new.kind is not ClientKind.AUTHORIZER:
            if new.agents or new.tools:
                raise _wrong(f"--tool does not go with --kind {new.kind.value}")
            return
        if not (new.agents and new.tools):
            raise _wrong("--kind authorizer needs --agent and --tool: what it may decide about")
        for agent in sorted(new.agents):
            if agent.tenant != new.tenant:
                raise _wrong(f"{agent} is an agent of another tenant")
            if await self._agents.agent(agent) is None:
                raise _wrong(f"there is no agent {agent}; `twogate agent list` shows them")
        for tool in sorted(new.tools):
            if tool not in known_tools:
                raise _wrong(f"{tool!r} is neither a class nor an entry of `tools`")

    async def _record(self, kind: EventKind, client: Client, detail: str) -> None:
        agent = "" if client.agent is None else client.agent.agent
        await self._audit.append(
            AuditEvent(
                kind=kind,
                at=self._clock.now_us(),
                tenant=client.tenant,
                agent=agent,
                client=client.client_id,
                detail=detail,
            )
        )


def _checked_jwks(raw: bytes) -> str:
    try:
        return check_keys(strict_json.decode(raw, max_bytes=MAX_JWKS, max_depth=_MAX_DEPTH))
    except ValueError as error:
        raise _wrong(f"the public keys: {error}") from None
    except GateError as error:
        raise _wrong(f"the public keys are not a JWK set: {error.face.text}") from None


def _wrong(text: str) -> GateError:
    return GateError(ErrorCode.REQUEST_MALFORMED, text)
