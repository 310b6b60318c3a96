"""`twogate check`: is the configuration valid, and who may do what under it?"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer

from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.cli.check_approvals import approval_warnings
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_table, print_text
from twogate.cli.state import known_agents
from twogate.config import HttpServer, LibraryServer, Settings, StdioServer, load_settings
from twogate.config.policy import compile_policy
from twogate.config.settings import Task
from twogate.config.shared_url import SQL
from twogate.config.store_url import is_postgresql
from twogate.config.values import is_loopback
from twogate.core.access import Policy, ToolClass, covers
from twogate.core.errors import ErrorCode
from twogate.flows.explain import shown_moment
from twogate.flows.hypothetical import describe
from twogate.flows.matrix import Cell, effective_matrix
from twogate.policies import check_policies, policies_of, schema_text
from twogate.sandboxes import check_sandboxes, unsandboxed

MANY_TASKS: Final = 5
"""More tasks than this draw a warning: a model that holds an agent's credential reaches all of them."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("check")(check)


def check(
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the schema that Cedar policies are checked against instead.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Validate the configuration; show what each agent may do within each task."""
    settings = load_settings(config)
    check_policies(config, settings)
    if schema:
        _print_schema(settings, as_json=as_json)
        return
    check_sandboxes(config, settings)
    agents, bindings = known_agents(settings)
    cells = list(effective_matrix(compile_policy(settings), agents, bindings, SystemClock().now()))
    notes = list(warnings(settings, cells))
    notes += [f"agent {agent.id} is disabled" for agent in agents.values() if agent.disabled]
    policies = policies_of(settings)
    notes += [
        f"policies: {policy.id} ({policy.file}:{policy.line}) covers no entry of tools, so it forbids nothing"
        for policy in policies
        if not policy.entries
    ]
    if as_json:
        document: dict[str, object] = {"ok": True, "file": str(config), "generation": settings.generation}
        document |= {"enforcement": settings.enforcement, "observe_until": shown_moment(settings.observe_until) or None}
        document["shared"] = settings.shared
        listed = [{"id": policy.id, "file": policy.file, "line": policy.line} for policy in policies]
        document["notify"] = [
            {"name": name, "way": item.way, "tenants": item.tenants, "events": item.events}
            for name, item in settings.notify.items()
        ]
        print_json(document | {"matrix": cells, "policies": listed, "warnings": notes})
        return
    print_text(f"{config} is valid (generation {settings.generation}).")
    if settings.shared != SQL:
        print_text(f"Used values and rate limits are shared by {settings.shared} (not asked now).")
    if settings.observe_until is not None:
        until = shown_moment(settings.observe_until)
        print_text(f"OBSERVING until {until}: gate two records role and task refusals and lets the calls run.")
    print_text()
    if cells:
        print_table(("Agent", "Task", "Tool", "Class", "Effect", "Why"), _rows(cells))
        print_text("\nWith every scope granted and no user; see `twogate explain` for one call.")
    else:
        print_text("No agent may call any tool.")
    if policies:
        print_text("\nPolicies may forbid what the table allows:")
        rows = ((policy.id, f"{policy.file}:{policy.line}", str(len(policy.entries))) for policy in policies)
        print_table(("Policy", "Where", "Entries covered"), rows)
    if settings.notify:
        print_text("\nPeople are told about calls that wait:")
        channels = (
            (name, item.way, ", ".join(item.tenants) or "all", ", ".join(item.events))
            for name, item in settings.notify.items()
        )
        print_table(("Channel", "Way", "Tenants", "Events"), channels)
    for note in notes:
        print_text(f"warning: {note}")


def _print_schema(settings: Settings, *, as_json: bool) -> None:
    try:
        text = schema_text(settings)
    except ModuleNotFoundError:
        raise CommandError("policies need the extra `cedar`: install `twogate[cedar]`", code="extra_missing") from None
    if as_json:
        print_json({"schema": text})
    else:
        print_text(text)


def warnings(settings: Settings, cells: list[Cell]) -> Iterator[str]:
    """What is allowed but probably not meant."""
    yield from _server_warnings(settings)
    yield from unsandboxed(settings)
    yield from _task_warnings(settings)
    if settings.pins != "required":
        yield "pins: tools that nobody approved can be called; see `twogate tool approve`, then set `pins: required`"
    for name, tenant in settings.tenants.items():
        if not tenant.servers:
            yield f"tenants.{name}: reaches no server"
    yield from _secret_warnings(settings)
    yield from _notify_warnings(settings)
    yield from approval_warnings(settings)
    yield from _limit_warnings(settings)
    yield from _agent_warnings(settings, cells)
    yield from _observe_warnings(settings, compile_policy(settings))


def _secret_warnings(settings: Settings) -> Iterator[str]:
    if all(server.credential is None for server in settings.servers.values()):
        return
    # Here, because it loads the gateway's connections, and few configurations have credentials.
    from twogate.upstreams import missing_secrets  # noqa: PLC0415

    for name, server, why in asyncio.run(missing_secrets(settings, SystemRng())):
        yield f"tenants.{name}: has no secret for {server}, so its calls of that server are refused: {why}"


def _notify_warnings(settings: Settings) -> Iterator[str]:
    if not settings.notify:
        return
    # Here, because few configurations have channels.
    from twogate.notices import channel_problems  # noqa: PLC0415

    for name, why in channel_problems(settings):
        yield f"notify.{name}: tells nobody: {why}"


def _task_warnings(settings: Settings) -> Iterator[str]:
    later = "" if settings.observe_until is None else " once gate two is enforced"
    everywhere = [settings.tasks, *(tenant.tasks for tenant in settings.tenants.values())]
    for target, tool in settings.tools.items():
        if not _in_a_task(target, tool.tool_class, everywhere):
            yield f"tools.{target}: in no task, so it cannot be called{later}"
    for name, tenant in settings.tenants.items():
        for target, tool in tenant.tools.items():
            if not _in_a_task(target, tool.tool_class, (settings.tasks, tenant.tasks)):
                yield f"tenants.{name}.tools.{target}: in no task of the tenant's, so it cannot be called{later}"


def _in_a_task(target: str, tool_class: ToolClass, sections: Iterable[Mapping[str, Task]]) -> bool:
    return any(covers(frozenset(task.tools), target, tool_class) for section in sections for task in section.values())


def _limit_warnings(settings: Settings) -> Iterator[str]:
    # Who chose PostgreSQL means to have replicas.
    if settings.shared == SQL and is_postgresql(settings.store):
        for name in ("agent", "tool", "tenant"):
            if getattr(settings.limits, name) is not None:
                yield f"limits.{name}: each replica counts for itself; `shared` names a server that counts for all"


def _server_warnings(settings: Settings) -> Iterator[str]:
    classified = [*settings.tools, *(target for tenant in settings.tenants.values() for target in tenant.tools)]
    for name, server in settings.servers.items():
        if not any(target.startswith(f"{name}.") for target in classified):
            yield f"servers.{name}: none of its tools is classified, so none can be called"
        if not any(name in tenant.servers for tenant in settings.tenants.values()):
            yield f"servers.{name}: no tenant may reach it"
        if isinstance(server, StdioServer) and any("${" in text for text in (*server.command, *server.env.values())):
            yield f"servers.{name}: ${{NAME}} is not expanded; the process gets it as it stands"
        if isinstance(server, LibraryServer):
            yield f"servers.{name}: guarded within its own process (twogate.asgi); `twogate serve` does not serve it"
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
    own = [
        (f"tenants.{name}.tools.{target}", target, held)
        for name, held in policy.by_tenant.items()
        for target in held.classes.keys() - policy.classes.keys()
    ]
    shared = [(f"tools.{target}", target, policy) for target in policy.classes]
    for place, target, held in shared + sorted(own, key=lambda item: item[0]):
        tool_class = held.classes[target]
        if tool_class not in _HARMLESS and not covers(held.token_names, target, tool_class):
            yield (
                f"{place}: {tool_class.value}, but no role asks for an operation token for it, so while "
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
