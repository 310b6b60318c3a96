"""Adding agents, disabling them and enabling them again (rows R-60, R-61; DESIGN decision 1)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping

import msgspec

from twogate.core.access import Policy
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import parse_jwks
from twogate.core.principal import Agent, AgentId, Binding, Method
from twogate.flows.audit import AuditSink
from twogate.flows.authserver.clients import Client, ClientAuth, ClientStore, SecretDigest
from twogate.flows.environment import Clock, Rng
from twogate.flows.registry import Registry, RegistryStore

SECRET_BYTES = 32


class NewAgent(msgspec.Struct, frozen=True):
    """What an operator asks for. Role and tasks are left out for an agent that the configuration declares."""

    id: AgentId
    auth: ClientAuth
    role: str | None = None
    tasks: tuple[str, ...] = ()
    default_task: str | None = None
    jwks: str | None = None


class Credentials(msgspec.Struct, frozen=True):
    """What the agent needs to get tokens. Secret and private key are shown this once and kept nowhere."""

    client_id: str
    auth: ClientAuth
    client_secret: str | None = None
    private_key_pem: str | None = None

    def __repr__(self) -> str:
        """Never the secret nor the key."""
        return f"Credentials(client_id={self.client_id!r}, …)"


class AgentAdmin:
    """Operators' use cases on agents."""

    def __init__(
        self,
        *,
        registry: Registry,
        store: RegistryStore,
        clients: ClientStore,
        audit: AuditSink,
        clock: Clock,
        rng: Rng,
        new_key: Callable[[], tuple[str, str]],
    ) -> None:
        self._registry = registry
        self._store = store
        self._clients = clients
        self._audit = audit
        self._clock = clock
        self._rng = rng
        self._new_key = new_key

    async def add(
        self,
        new: NewAgent,
        policy: Policy,
        configured: Mapping[AgentId, Agent],
        bound: Mapping[Binding, AgentId],
        issuer: str,
    ) -> Credentials:
        """Register a client of the embedded authorization server for an agent, and the agent if it is new.

        `configured` and `bound` are the agents and bindings of the configuration, whose client_id is then used.

        Raises:
            GateError: REQUEST_MALFORMED with what is wrong; STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        declared = configured.get(new.id)
        if declared is None:
            agent: Agent | None = _checked(new, policy)
            # The store refuses it too, but by then the trail would say that the agent was added.
            if await self._registry.agent(new.id) is not None:
                raise _wrong(f"there is an agent {new.id} already; `twogate agent list` shows it")
            client_id = f"{new.id.tenant}.{new.id.agent}"
            bindings = [Binding(Method.JWT, issuer, client_id)]
            if (owner := bound.get(bindings[0])) is not None:
                # The configuration's binding would win, and the new client's tokens would act as its agent.
                raise _wrong(f"the configuration binds the client id {client_id!r} to {owner}; rename one of them")
        else:
            if new.role is not None or new.tasks or new.default_task is not None:
                raise _wrong(f"{new.id} is declared in the configuration; its role and tasks are changed there")
            agent, bindings = None, []
            client_id = _bound_client(new.id, bound, issuer)
        if await self._clients.get(client_id) is not None:
            raise _wrong(f"the client {client_id!r} of {new.id} exists already")
        now = self._clock.now()
        secret = key = jwks = None
        if new.auth is ClientAuth.CLIENT_SECRET:
            secret = base64.urlsafe_b64encode(self._rng.token(SECRET_BYTES)).decode().rstrip("=")
        elif new.jwks is not None:
            jwks = _checked_jwks(new.jwks)
        else:
            key, jwks = self._new_key()
        digests = () if secret is None else (SecretDigest(hashlib.sha256(secret.encode()).hexdigest()),)
        await self._record(EventKind.AGENT_ADDED, new.id, f"client {client_id}, {new.auth.value}")
        await self._clients.add(
            Client(client_id, new.id.tenant, new.id, new.auth, digests, jwks, now), agent, bindings, now
        )
        return Credentials(client_id, new.auth, secret, key)

    async def disable(self, agent: AgentId, by: str = "") -> bool:
        """Cut every credential of an agent off, from its next request on. False if it was disabled already.

        `by` is the person who does it, if one is known.

        Raises:
            GateError: NOT_FOUND, STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        await self._known(agent)
        await self._record(EventKind.AGENT_DISABLED, agent, "", by)
        return await self._store.disable_agent(agent, self._clock.now())

    async def enable(self, agent: AgentId, by: str = "") -> bool:
        """Let a disabled agent in again, with the credentials that it has. False if it was not disabled.

        `by` is the person who does it, if one is known.

        Raises:
            GateError: NOT_FOUND, STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        await self._known(agent)
        await self._record(EventKind.AGENT_ENABLED, agent, "", by)
        return await self._store.enable_agent(agent)

    async def _known(self, agent: AgentId) -> None:
        if await self._registry.agent(agent) is None:
            raise GateError(ErrorCode.NOT_FOUND, f"there is no agent {agent}; `twogate agent list` shows them")

    async def _record(self, kind: EventKind, agent: AgentId, detail: str, by: str = "") -> None:
        at, tenant, name = self._clock.now_us(), agent.tenant, agent.agent
        await self._audit.append(AuditEvent(kind=kind, at=at, tenant=tenant, agent=name, client=by, detail=detail))


def _checked(new: NewAgent, policy: Policy) -> Agent:
    if new.id.tenant not in policy.tenants:
        raise _wrong(f"there is no tenant {new.id.tenant!r}; tenants: {', '.join(sorted(policy.tenants))}")
    policy = policy.of(new.id.tenant)
    if new.role is None or new.role not in policy.roles:
        raise _wrong(f"--role must be one of: {', '.join(sorted(policy.roles))}")
    unknown = [task for task in new.tasks if task not in policy.tasks]
    if not new.tasks or unknown:
        known = ", ".join(sorted(policy.tasks)) or "none is configured"
        raise _wrong(
            f"--task must name at least one task, each of: {known}" + (f" (not {unknown[0]!r})" if new.tasks else "")
        )
    if new.default_task is not None and new.default_task not in new.tasks:
        raise _wrong("--default-task must be one of the agent's tasks")
    return Agent(new.id, new.role, new.tasks, new.default_task)


def _bound_client(agent: AgentId, bound: Mapping[Binding, AgentId], issuer: str) -> str:
    names = [binding.identifier for binding, owner in bound.items() if owner == agent and binding.issuer == issuer]
    if len(names) != 1:
        raise _wrong(f"{agent} needs exactly one binding {{issuer: embedded, client_id: …}} in the configuration")
    return names[0]


def _checked_jwks(jwks: str) -> str:
    try:
        keys = parse_jwks(jwks.encode())
    except GateError as error:
        raise _wrong(f"the public keys are not a JWK set: {error.debug}") from error
    if not keys:
        raise _wrong("the JWK set holds no usable public key (EC P-256, Ed25519 or RSA of 2048 bits and more)")
    return jwks


def _wrong(text: str) -> GateError:
    return GateError(ErrorCode.REQUEST_MALFORMED, text)
