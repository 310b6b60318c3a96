"""Workloads: which agent a platform's token stands for (row R-26, MCP's workload identity federation)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.jwt import UnverifiedJwt
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.metadata import token_endpoint
from twogate.core.oauth.workload_token import (
    VerifiedWorkload,
    WorkloadIssuer,
    trust_domain,
    verify_workload_token,
)
from twogate.core.principal import Agent, AgentId, Binding, Method
from twogate.flows.authserver.clients import Client, ClientAuth, ClientSource
from twogate.flows.gateway.issuers import KeySource
from twogate.flows.registry import RegistryView

_NO_KEYS = '{"keys":[]}'


class Agents(Protocol):
    """Tells agents and what is bound to them."""

    async def view(self) -> RegistryView:
        """Both as of now.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Workload(msgspec.Struct, frozen=True):
    """A proven workload, and the enabled agent that an operator bound it to."""

    verified: VerifiedWorkload
    issuer: WorkloadIssuer
    agent: Agent


class Workloads:
    """Verifies workload tokens. `issuer` is this server's own."""

    def __init__(
        self, issuer: str, trusted: Mapping[str, WorkloadIssuer], keys: Mapping[str, KeySource], agents: Agents
    ) -> None:
        self._audiences = frozenset({issuer, token_endpoint(issuer)})
        self._trusted = trusted
        self._keys = keys
        self._agents = agents

    def select(self, token: UnverifiedJwt) -> WorkloadIssuer | None:
        """The configured issuer that a token claims to be from, by `iss` or by the trust domain of its `sub`."""
        named = self._trusted.get(token.unverified_issuer or "")
        return named or self._trusted.get(trust_domain(token.unverified_subject) or "")

    async def verify(self, token: UnverifiedJwt, proof: str | None, now: int) -> Workload:
        """The workload of a token, and its agent; `proof` is the key that the caller proved to hold, if any.

        Raises:
            GateError: ISSUER_UNKNOWN, what `verify_workload_token` raises, TENANT_REFUSED, AGENT_UNBOUND,
                AGENT_DISABLED; KEYS_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        issuer = self.select(token)
        if issuer is None:
            raise GateError(ErrorCode.ISSUER_UNKNOWN, "neither iss nor the trust domain of sub is configured")
        # First, so that a refused one costs the issuer no fetch of its keys.
        if token.unverified_algorithm not in issuer.algorithms:
            raise GateError(ErrorCode.TOKEN_ALGORITHM_REFUSED, "alg is not among the issuer's")
        keys = await self._keys[issuer.issuer].keys(token.unverified_kid)
        verified = verify_workload_token(token, issuer, keys, self._audiences, proof, now)
        view = await self._agents.view()
        agent_id = view.bindings.get(Binding(Method.JWT, verified.issuer, verified.subject))
        agent = None if agent_id is None else view.agents.get(agent_id)
        if agent is None:
            raise GateError(ErrorCode.AGENT_UNBOUND, "the workload is bound to no agent")
        if agent.id.tenant not in issuer.tenants:
            raise GateError(ErrorCode.TENANT_REFUSED, "the issuer may not assert the agent's tenant")
        if agent.disabled:
            raise GateError(ErrorCode.AGENT_DISABLED, f"agent {agent.id}")
        return Workload(verified, issuer, agent)


def workload_client_id(issuer: str, subject: str) -> str:
    """The client_id in the tokens of a workload that is no registered client.

    No registered client has it: the identifiers that operators and we ourselves give out hold no blanks.
    """
    return f"workload {issuer} {subject}"


def workload_client(workload: Workload) -> Client:
    """A workload as the client that its tokens are for. It exists by its binding alone, and has no keys of its own."""
    return Client(
        client_id=workload_client_id(workload.verified.issuer, workload.verified.subject),
        tenant=workload.agent.id.tenant,
        agent=workload.agent.id,
        auth=ClientAuth.PRIVATE_KEY_JWT,
        jwks=_NO_KEYS,
        grants=frozenset({GrantType.JWT_BEARER}),
        source=ClientSource.CONFIGURED,
    )


def with_workloads(
    bindings: Mapping[Binding, AgentId], workload_issuers: Collection[str], issuer: str
) -> dict[Binding, AgentId]:
    """The bindings, and those by which a gateway finds the agent in the tokens that `issuer` gives to workloads.

    So a workload's tokens end with its binding, as a client's do.
    """
    derived = {
        Binding(binding.method, issuer, workload_client_id(binding.issuer, binding.identifier)): agent
        for binding, agent in bindings.items()
        if binding.issuer in workload_issuers
    }
    return {**bindings, **derived}
