"""The access matrix: what each agent may do within each of its tasks, as gate two decides it (row R-30)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from twogate.core.access import Deny, Observed, Policy, ToolClass, decide
from twogate.core.entry import parse_entry
from twogate.core.principal import Agent, AgentId, Binding
from twogate.flows.hypothetical import hypothetical_principal, hypothetical_session, verdict


class Cell(msgspec.Struct, frozen=True):
    """What one agent may do with what one entry of `tools` names, within one task.

    All scopes are granted and no user stands behind the agent.
    """

    agent: str
    task: str
    tool: str
    tool_class: str = msgspec.field(name="class")
    effect: str
    reason: str | None


def effective_matrix(
    policy: Policy, agents: Mapping[AgentId, Agent], bindings: Mapping[Binding, AgentId], now: int
) -> Iterator[Cell]:
    """Every enabled agent, task and classified tool, with what `core.access.decide` says."""
    for agent in (agent for agent in agents.values() if not agent.disabled):
        yield from agent_matrix(policy, agent, bindings, policy.of(agent.id.tenant).classes.items(), now)


def agent_matrix(
    policy: Policy,
    agent: Agent,
    bindings: Mapping[Binding, AgentId],
    classes: Iterable[tuple[str, ToolClass]],
    now: int,
) -> Iterator[Cell]:
    """The part of one agent, for these entries with their classes: task by task."""
    principal = hypothetical_principal(agent, bindings, scopes=tuple(policy.scopes))
    held = policy.of(agent.id.tenant)
    for task in agent.tasks:
        session = hypothetical_session(principal, task, held, now)
        for tool, tool_class in classes:
            entry = parse_entry(tool)
            decision = decide(principal, session, entry.server, entry.sample, held, observing=held.observing(now))
            reason = decision.code.value if isinstance(decision, Deny | Observed) else None
            yield Cell(str(agent.id), task, tool, tool_class.value, verdict(decision), reason)
