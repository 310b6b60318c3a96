"""What gate one and gate two need of the settings, in the core's own terms."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from twogate.config.settings import EMBEDDED, RoleSettings, Settings, Task, Tool
from twogate.core.access import Group, Policy, Role, Tenant, ToolClass
from twogate.core.principal import Agent, AgentId, Binding, Method


def compile_policy(settings: Settings) -> Policy:
    """The policy of one configuration generation, with that of each tenant that has something of its own."""
    shared = _shared(settings)
    by_tenant = {
        name: msgspec.structs.replace(
            shared,
            classes=MappingProxyType({**shared.classes, **_classes(tenant.tools)}),
            roles=MappingProxyType({**shared.roles, **_roles(tenant.roles)}),
            tasks=MappingProxyType({**shared.tasks, **_tasks(tenant.tasks)}),
            tenants=MappingProxyType({name: shared.tenants[name]}),
        )
        for name, tenant in settings.tenants.items()
        if tenant.tools or tenant.roles or tenant.tasks
    }
    return msgspec.structs.replace(shared, by_tenant=MappingProxyType(by_tenant)) if by_tenant else shared


def _classes(tools: Mapping[str, Tool]) -> dict[str, ToolClass]:
    return {target: tool.tool_class for target, tool in tools.items()}


def _roles(roles: Mapping[str, RoleSettings]) -> dict[str, Role]:
    return {
        name: Role(name, frozenset(role.allow), frozenset(role.token), frozenset(role.deny))
        for name, role in roles.items()
    }


def _tasks(tasks: Mapping[str, Task]) -> dict[str, frozenset[str]]:
    return {name: frozenset(task.tools) for name, task in tasks.items()}


def _shared(settings: Settings) -> Policy:
    return Policy(
        generation=settings.generation,
        observe_until=settings.observe_until if settings.enforcement == "observe" else None,
        classes=MappingProxyType(_classes(settings.tools)),
        roles=MappingProxyType(_roles(settings.roles)),
        tasks=MappingProxyType(_tasks(settings.tasks)),
        scopes=MappingProxyType({name: frozenset(entries) for name, entries in settings.scopes.items()}),
        groups=MappingProxyType(
            {name: Group(group.role, frozenset(group.scopes)) for name, group in settings.groups.items()}
        ),
        tenants=MappingProxyType(
            {name: Tenant(frozenset(tenant.servers)) for name, tenant in settings.tenants.items()}
        ),
    )


def parse_agent_id(name: str) -> AgentId:
    """The agent that `tenant/name` names.

    Raises:
        ValueError: The text has another form.
    """
    tenant, slash, agent = name.partition("/")
    if not (tenant and slash and agent) or "/" in agent:
        raise ValueError(f"{name!r} is not tenant/name")
    return AgentId(tenant, agent)


def configured_agents(settings: Settings) -> tuple[Mapping[AgentId, Agent], Mapping[Binding, AgentId]]:
    """The agents that the file declares, and which credential means which of them."""
    agents: dict[AgentId, Agent] = {}
    bindings: dict[Binding, AgentId] = {}
    for name, agent in settings.agents.items():
        agent_id = parse_agent_id(name)
        agents[agent_id] = Agent(agent_id, agent.role, agent.tasks, agent.default_task, agent.concurrent_tasks)
        for binding in agent.bindings:
            issuer = settings.public_url if binding.issuer == EMBEDDED else binding.issuer
            bindings[Binding(Method.JWT, issuer, binding.identifier)] = agent_id
    return MappingProxyType(agents), MappingProxyType(bindings)
