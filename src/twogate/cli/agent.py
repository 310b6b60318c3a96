"""`twogate agent add | list | disable | enable`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, cast

import typer
from pydantic import TypeAdapter

from twogate.adapters.signers.agent_key import new_agent_key
from twogate.cli.operator_name import by_operator
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_table, print_text
from twogate.cli.state import with_state, with_store
from twogate.config import load_settings
from twogate.config.policy import compile_policy, configured_agents, parse_agent_id
from twogate.config.values import AgentKey
from twogate.core.oauth.resource import tenant_resources
from twogate.core.principal import AgentId
from twogate.flows.agents import AgentAdmin, NewAgent
from twogate.flows.authserver.clients import ClientAuth
from twogate.state import State, Store

AgentArgument = Annotated[str, typer.Argument(metavar="TENANT/NAME", help="The agent.")]

_AGENT_KEY: Final[TypeAdapter[str]] = TypeAdapter(AgentKey)
# The names of RFC 7591 section 2.
_METHODS: Final = {
    ClientAuth.CLIENT_SECRET: "client_secret_basic",
    ClientAuth.PRIVATE_KEY_JWT: "private_key_jwt",
}

app = typer.Typer(help="Agents: who may call.", no_args_is_help=True, rich_markup_mode=None)


def register(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="agent")


@app.command("add")
def add(
    agent: AgentArgument,
    role: Annotated[str | None, typer.Option(help="Its role.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task it may declare; repeat for more. Give few.")] = None,
    default_task: Annotated[str | None, typer.Option(help="The task in force when it declares none.")] = None,
    auth: Annotated[ClientAuth, typer.Option(help="How it authenticates.")] = ClientAuth.PRIVATE_KEY_JWT,
    public_keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its public keys (a JWK set); else a key pair is made for it.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Register an agent, or a client for one that the configuration declares; print its settings once."""
    agent_id = _agent_id(agent)
    if public_keys is not None and auth is not ClientAuth.PRIVATE_KEY_JWT:
        raise typer.BadParameter("goes with --auth private_key_jwt", param_hint="--public-keys")
    jwks = None if public_keys is None else public_keys.read_text("utf-8", "replace")
    new = NewAgent(agent_id, auth, role, tuple(task or ()), default_task, jwks)
    printed = with_state(config, lambda state: _add(state, new))
    if as_json:
        print_json(printed)
    else:
        _print_settings(agent, printed)


async def _add(state: State, new: NewAgent) -> dict[str, object]:
    settings = state.settings
    if not settings.embedded.enabled:
        raise CommandError("the embedded authorization server is off (embedded.enabled); register it at your own")
    agents, bindings = configured_agents(settings)
    credentials = await _admin(state).add(new, compile_policy(settings), agents, bindings, settings.public_url)
    tenants = {name: tenant.servers for name, tenant in settings.tenants.items()}
    given = {"client_secret": credentials.client_secret, "private_key_pem": credentials.private_key_pem}
    return {
        "agent": str(new.id),
        "issuer": settings.public_url,
        "token_endpoint": f"{settings.public_url}/token",
        "client_id": credentials.client_id,
        "token_endpoint_auth_method": _METHODS[new.auth],
        **{name: value for name, value in given.items() if value is not None},
        "resources": sorted(tenant_resources(settings.public_url, tenants)[new.id.tenant]),
    }


def _print_settings(agent: str, printed: dict[str, object]) -> None:
    print_text(f"{agent} is registered. Its settings, shown this once:\n")
    for name, value in printed.items():
        if isinstance(value, list):
            print_text(f"{name}: {_joined(cast('object', value))}")
        elif name != "private_key_pem":
            print_text(f"{name}: {value}")
    if "private_key_pem" in printed:
        print_text(f"\n{printed['private_key_pem']}")
        print_text("\n".join(_snippet(printed)))


@app.command("list")
def list_agents(config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show every agent, of the configuration and of the store."""

    async def run(store: Store) -> list[dict[str, object]]:
        configured = configured_agents(store.settings)[0]
        clients = await store.clients.list()
        view = await store.registry.view()
        return [
            {
                "agent": str(agent.id),
                "role": agent.role,
                "tasks": list(agent.tasks),
                "default_task": agent.default_task,
                "state": "disabled" if agent.disabled else "enabled",
                "defined_in": "configuration" if agent.id in configured else "store",
                "clients": [client.client_id for client in clients if client.agent == agent.id],
            }
            for agent in sorted(view.agents.values(), key=lambda agent: agent.id)
        ]

    rows = with_store(load_settings(config), run)
    if as_json:
        print_json({"agents": rows})
        return
    print_table(
        ("Agent", "Role", "Tasks", "State", "Defined in", "Clients"),
        (
            (
                str(row["agent"]),
                str(row["role"]),
                _joined(row["tasks"]),
                str(row["state"]),
                str(row["defined_in"]),
                _joined(row["clients"]),
            )
            for row in rows
        ),
    )


@app.command("disable")
def disable(agent: AgentArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Cut an agent off: each of its credentials is refused from the next request on."""
    agent_id = _agent_id(agent)
    changed = with_state(config, lambda state: _admin(state).disable(agent_id, by_operator()))
    if as_json:
        print_json({"agent": agent, "state": "disabled", "changed": changed})
    else:
        print_text(f"{agent} is disabled." if changed else f"{agent} was disabled already.")


@app.command("enable")
def enable(agent: AgentArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Let a disabled agent in again, with the credentials that it has."""
    agent_id = _agent_id(agent)
    changed = with_state(config, lambda state: _admin(state).enable(agent_id, by_operator()))
    if as_json:
        print_json({"agent": agent, "state": "enabled", "changed": changed})
    else:
        print_text(f"{agent} is enabled." if changed else f"{agent} was not disabled.")


def _admin(state: State) -> AgentAdmin:
    return AgentAdmin(
        registry=state.registry,
        store=state.registry_store,
        clients=state.clients,
        audit=state.audit,
        clock=state.clock,
        rng=state.rng,
        new_key=new_agent_key,
    )


def _agent_id(name: str) -> AgentId:
    try:
        # As strict as the configuration, so that what is added here could as well be declared there.
        return parse_agent_id(_AGENT_KEY.validate_python(name))
    except ValueError:
        raise typer.BadParameter(f"{name!r} is no agent's name, like acme/reporter", param_hint="TENANT/NAME") from None


def _joined(values: object) -> str:
    return ", ".join(str(value) for value in cast("list[object]", values)) if isinstance(values, list) else ""


def _snippet(printed: dict[str, object]) -> list[str]:
    """How to use the settings with the official Python SDK."""
    server = _joined(printed["resources"]).split(", ", 1)[0]
    client_id, issuer = printed["client_id"], printed["issuer"]
    return [
        "With the official Python SDK (mcp 2.x), the key saved as agent.pem:",
        "",
        "    from mcp.client.auth.extensions.client_credentials import PrivateKeyJWTOAuthProvider, SignedJWTParameters",
        "",
        "    signer = SignedJWTParameters(",
        f"        issuer={client_id!r}, subject={client_id!r},",
        "        signing_key=open('agent.pem').read(), signing_algorithm='ES256',",
        "    )",
        "    auth = PrivateKeyJWTOAuthProvider(",
        f"        server_url={server!r}, storage=..., client_id={client_id!r},",
        f"        assertion_provider=signer.create_assertion_provider(), issuer={issuer!r},",
        "    )",
    ]
