"""`twogate explain`: why a call would be allowed or denied, or why one was, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from twogate.adapters.clock import SystemClock
from twogate.cli.explain_assumed import parse_arguments, parse_moment
from twogate.cli.explain_pin import pin_finding
from twogate.cli.explain_request import explain_request
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_table, print_text
from twogate.cli.state import known_agents
from twogate.config import load_settings
from twogate.config.policy import compile_policy, parse_agent_id
from twogate.core.principal import Agent, AgentId
from twogate.explaining import around_of
from twogate.flows.explain import Circumstances, Explanation, explain_call
from twogate.flows.hypothetical import hypothetical_principal
from twogate.policies import check_policies


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(explain)


def explain(  # noqa: PLR0913, PLR0917 - one per option
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="TENANT/NAME", help="The agent that calls; needed with --tool.")
    ] = None,
    tool: Annotated[
        str | None,
        typer.Option(
            "--tool", metavar="TARGET", help="SERVER.TOOL, or SERVER.resource:URI or SERVER.prompt:NAME, that it calls."
        ),
    ] = None,
    request: Annotated[
        str | None, typer.Option("--request", metavar="ID", help="Instead: a request that is on the audit trail.")
    ] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="The task it declared; its default task if left out.")
    ] = None,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="A scope of its token (repeatable).")] = None,
    group: Annotated[list[str] | None, typer.Option("--group", help="A group of the user (repeatable).")] = None,
    user_role: Annotated[
        list[str] | None, typer.Option("--user-role", help="A role of the user's own (repeatable).")
    ] = None,
    arguments: Annotated[
        str | None, typer.Option("--arguments", metavar="JSON|@FILE", help="The call's arguments.")
    ] = None,
    address: Annotated[
        str, typer.Option("--address", help="The address that it comes from, for policies; none if left out.")
    ] = "",
    at: Annotated[
        str | None, typer.Option("--at", metavar="TIME", help="When it is made (RFC 3339); now if left out.")
    ] = None,
    device: Annotated[
        list[str] | None, typer.Option("--device", help="What its token says of the device (repeatable).")
    ] = None,
    ask: Annotated[
        bool, typer.Option("--ask", help="Ask the server whether it still shows what was approved of it.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Say whether a call would be allowed under the configuration, and why; or why one was (--request)."""
    if request is not None:
        others = (agent, tool, task, scope, group, user_role, arguments, address, at, device, ask)
        if any(others):
            raise typer.BadParameter("goes with --config and --json only", param_hint="--request")
        explain_request(load_settings(config).state_directory / "audit", request, as_json=as_json)
        return
    if agent is None or tool is None:
        raise typer.BadParameter("needs --agent and --tool, or --request", param_hint="--tool" if agent else "--agent")
    settings = load_settings(config)
    check_policies(config, settings)
    assumed = Circumstances(parse_arguments(arguments), address)
    agents, bindings = known_agents(settings)
    found = _find_agent(agent, agents)
    policy = compile_policy(settings).of(found.id.tenant)
    principal = hypothetical_principal(
        found, bindings, scopes=scope or (), groups=group or (), user_roles=user_role or (), posture=device or ()
    )
    now = parse_moment(at, SystemClock().now())
    finding = pin_finding(settings, policy, found.id.tenant, tool, assumed.arguments, ask_server=ask)
    told = explain_call(principal, tool, task, policy, around_of(settings), finding, now, assumed)
    if as_json:
        _print_json(agent, tool, told)
        return
    print_table(("Step", "Result", "Because"), [(item.step, item.result, item.because) for item in told.steps])
    print_text(f"\n{told.decision}: {told.text}")


def _print_json(agent: str, tool: str, told: Explanation) -> None:
    document: dict[str, object] = {"agent": agent, "task": told.task, "tool": tool, "decision": told.decision}
    document |= {"reason": told.reason, "text": told.text, "steps": told.steps, "scopes": told.scopes}
    print_json({**document, "approval": told.approval})


def _find_agent(name: str, agents: Mapping[AgentId, Agent]) -> Agent:
    try:
        agent_id = parse_agent_id(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--agent") from None
    if agent_id not in agents:
        known = ", ".join(sorted(map(str, agents))) or "none"
        raise CommandError(f"there is no agent {name} (there is: {known})", code="agent_unknown")
    if agents[agent_id].disabled:
        raise CommandError(f"{name} is disabled: gate one refuses each of its calls", code="agent_disabled")
    return agents[agent_id]
