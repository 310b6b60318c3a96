"""`twogate check`: is the configuration valid, and who may do what under it?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec
import typer

from twogate.adapters.clock import SystemClock
from twogate.cli.explain import describe, hypothetical_principal, hypothetical_session, shown_moment, verdict
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import print_json, print_table, print_text
from twogate.cli.state import known_agents
from twogate.config import HttpServer, Settings, StdioServer, load_settings
from twogate.config.policy import compile_policy
from twogate.config.values import is_loopback
from twogate.core.access import Deny, Observed, Policy, ToolClass, covers, decide
from twogate.core.entry import parse_entry
from twogate.core.errors import ErrorCode
from twogate.core.principal import Agent, AgentId, Binding
from twogate.sandboxes import check_sandboxes, unsandboxed

MANY_TASKS: Final = 5
"""More tasks than this draw a warning: a model that holds an agent's credential reaches all of them."""


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


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Validate the configuration; show what each agent may do within each task."""
    settings = load_settings(config)
    check_sandboxes(config, settings)
    agents, bindings = known_agents(settings)
    cells = list(effective_matrix(settings, agents, bindings))
    notes = list(warnings(settings, cells))
    notes += [f"agent {agent.id} is disabled" for agent in agents.values() if agent.disabled]
    if as_json:
        document: dict[str, object] = {"ok": True, "file": str(config), "generation": settings.generation}
        document |= {"enforcement": settings.enforcement, "observe_until": shown_moment(settings.observe_until) or None}
        print_json(document | {"matrix": cells, "warnings": notes})
        return
    print_text(f"{config} is valid (generation {settings.generation}).")
    if settings.observe_until is not None:
        until = shown_moment(settings.observe_until)
        print_text(f"OBSERVING until {until}: gate two records role and task refusals and lets the calls run.")
    print_text()
    if cells:
        print_table(("Agent", "Task", "Tool", "Class", "Effect", "Why"), _rows(cells))
        print_text("\nWith every scope granted and no user; see `twogate explain` for one call.")
    else:
        print_text("No agent may call any tool.")
    for note in notes:
        print_text(f"warning: {note}")


def effective_matrix(
    settings: Settings, agents: Mapping[AgentId, Agent], bindings: Mapping[Binding, AgentId]
) -> Iterator[Cell]:
    """Every enabled agent, task and classified tool, with what `core.access.decide` says."""
    policy = compile_policy(settings)
    now = SystemClock().now()
    for agent in (agent for agent in agents.values() if not agent.disabled):
        principal = hypothetical_principal(agent, bindings, scopes=tuple(policy.scopes))
        for task in agent.tasks:
            session = hypothetical_session(principal, task, policy, now)
            for tool, tool_class in policy.classes.items():
                entry = parse_entry(tool)
                decision = decide(
                    principal, session, entry.server, entry.sample, policy, observing=policy.observing(now)
                )
                reason = decision.code.value if isinstance(decision, Deny | Observed) else None
                yield Cell(str(agent.id), task, tool, tool_class.value, verdict(decision), reason)


def warnings(settings: Settings, cells: list[Cell]) -> Iterator[str]:
    """What is allowed but probably not meant."""
    yield from _server_warnings(settings)
    yield from unsandboxed(settings)
    entries = [frozenset(task.tools) for task in settings.tasks.values()]
    for target, tool in settings.tools.items():
        if not any(covers(names, target, tool.tool_class) for names in entries):
            later = "" if settings.observe_until is None else " once gate two is enforced"
            yield f"tools.{target}: in no task, so it cannot be called{later}"
    for name, tenant in settings.tenants.items():
        if not tenant.servers:
            yield f"tenants.{name}: reaches no server"
    yield from _agent_warnings(settings, cells)
    yield from _observe_warnings(settings, compile_policy(settings))


def _server_warnings(settings: Settings) -> Iterator[str]:
    for name, server in settings.servers.items():
        if not any(target.startswith(f"{name}.") for target in settings.tools):
            yield f"servers.{name}: none of its tools is classified, so none can be called"
        if not any(name in tenant.servers for tenant in settings.tenants.values()):
            yield f"servers.{name}: no tenant may reach it"
        if isinstance(server, StdioServer) and any("${" in text for text in (*server.command, *server.env.values())):
            yield f"servers.{name}: ${{NAME}} is not expanded; the process gets it as it stands"
        if isinstance(server, HttpServer) and server.url.startswith("http:"):
            host = urlsplit(server.url).hostname or ""
            if not is_loopback(host):
                yield f"servers.{name}: calls cross the network unencrypted; use https"


def _agent_warnings(settings: Settings, cells: list[Cell]) -> Iterator[str]:
    useful = {(cell.agent, cell.task) for cell in cells if cell.effect != "deny"}
    for name, agent in settings.agents.items():
        if len(agent.tasks) > MANY_TASKS:
            yield f"agents.{name}: has {len(agent.tasks)} tasks; whoever holds its credential reaches all of them"
        for task in agent.tasks:
            if (name, task) not in useful:
                yield f"agents.{name}: its task {task} gives it no tools"


def _observe_warnings(settings: Settings, policy: Policy) -> Iterator[str]:
    if settings.observe_until is None:
        return
    for target, tool_class in policy.classes.items():
        if tool_class not in _HARMLESS and not covers(policy.token_names, target, tool_class):
            yield (
                f"tools.{target}: {tool_class.value}, but no role asks for an operation token for it, so while "
                "observing every agent of a tenant that has the server may call it"
            )


def _rows(cells: list[Cell]) -> Iterator[tuple[str, ...]]:
    # Tools outside a task are most of a big matrix and all alike: counted, not listed (`--json` has them).
    others: dict[tuple[str, str], Counter[str]] = {}
    for cell in cells:
        counted = others.setdefault((cell.agent, cell.task), Counter())
        if cell.reason == ErrorCode.TASK_NOT_PERMITTED.value:
            counted[cell.effect] += 1
    for (agent, task), counted in others.items():
        for cell in cells:
            if (cell.agent, cell.task) == (agent, task) and cell.reason != ErrorCode.TASK_NOT_PERMITTED.value:
                why = describe(ErrorCode(cell.reason)) if cell.reason else _GRANTED[cell.effect]
                yield (agent, task, cell.tool, cell.tool_class, cell.effect, why)
        for effect, count in counted.items():
            yield (agent, task, f"{count} more", "", effect, describe(ErrorCode.TASK_NOT_PERMITTED))


_HARMLESS: Final = frozenset({ToolClass.READ, ToolClass.SEARCH, ToolClass.FETCH})

_GRANTED: Final = {"allow": "role and task hold it", "token": "role and task hold it, with an operation token"}
