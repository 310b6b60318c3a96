"""`twogate client add | list | show | remove | registration-token`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer
from pydantic import TypeAdapter, ValidationError

from twogate.adapters.signers.agent_key import new_agent_key
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_table, print_text
from twogate.cli.state import with_state, with_store
from twogate.config import load_settings
from twogate.config.client_records import configured_clients
from twogate.config.clients import ClientId, parse_grant
from twogate.config.policy import configured_agents, parse_agent_id
from twogate.config.tenants import tenant_tools
from twogate.config.values import AgentKey, parse_duration
from twogate.core.access import ToolClass
from twogate.core.oauth.grant_type import GrantType
from twogate.flows.authserver.client_admin import MAX_JWKS, ClientAdmin, NewClient
from twogate.flows.authserver.client_removal import ClientRemoval
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, grant_name
from twogate.flows.authserver.revocations import Revocations
from twogate.state import State, Store
from twogate.stores.sql.grants import SqlGrantStore
from twogate.stores.sql.registrations import SqlRegistrationStore
from twogate.stores.sql.revocations import SqlRevocationStore

MAX_TOKEN_LIFETIME: Final = 30 * 86400

_CLIENT_ID: Final[TypeAdapter[str]] = TypeAdapter(ClientId)
_AGENT_KEY: Final[TypeAdapter[str]] = TypeAdapter(AgentKey)

ClientArgument = Annotated[str, typer.Argument(metavar="CLIENT_ID", help="The client.")]

app = typer.Typer(
    help="Clients: applications that people use, and those of agents.", no_args_is_help=True, rich_markup_mode=None
)


def register(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="client")


@app.command("add")
def add(  # noqa: PLR0913, PLR0917 - one parameter an option
    client_id: ClientArgument,
    tenant: Annotated[str, typer.Option(help="Whose client it is.")],
    kind: Annotated[ClientKind, typer.Option(help="What it is for.")],
    auth: Annotated[ClientAuth | None, typer.Option(help="How it authenticates.")] = None,
    name: Annotated[str, typer.Option(help="What people are shown; its id, if left out.")] = "",
    agent: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TENANT/NAME",
            help="The agent that it is, or that a host runs; those that an authorizer decides about, repeated.",
        ),
    ] = None,
    redirect_uri: Annotated[
        list[str] | None, typer.Option(help="Where people may be sent back to; repeat for more.")
    ] = None,
    grant: Annotated[
        list[str] | None, typer.Option(help="A grant it may use, such as device_code; repeat for more.")
    ] = None,
    public_keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its public keys (a JWK set); else a key pair is made for it.")
    ] = None,
    may_act: Annotated[
        str | None, typer.Option(metavar="CLIENT_ID", help="The client that may exchange the tokens of its people.")
    ] = None,
    tool: Annotated[
        list[str] | None,
        typer.Option(metavar="ENTRY", help="A class or entry that an authorizer decides about; repeat for more."),
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Add a client to the store; print its settings once."""
    if auth is None:
        auth = ClientAuth.NONE if kind is ClientKind.PUBLIC else ClientAuth.PRIVATE_KEY_JWT
    if public_keys is not None and auth is not ClientAuth.PRIVATE_KEY_JWT:
        raise typer.BadParameter("goes with --auth private_key_jwt", param_hint="--public-keys")
    agents = [parse_agent_id(_checked(_AGENT_KEY, one, "--agent")) for one in agent or ()]
    if len(agents) > 1 and kind is not ClientKind.AUTHORIZER:
        raise typer.BadParameter(f"is one with --kind {kind.value}", param_hint="--agent")
    new = NewClient(
        client_id=_checked(_CLIENT_ID, client_id, "CLIENT_ID"),
        tenant=tenant,
        kind=kind,
        auth=auth,
        name=name,
        agent=agents[0] if agents and kind is not ClientKind.AUTHORIZER else None,
        redirect_uris=tuple(dict.fromkeys(redirect_uri or ())),
        grants=frozenset(_grant(item) for item in grant or ()),
        jwks=None if public_keys is None else _read(public_keys),
        may_act=None if may_act is None else _checked(_CLIENT_ID, may_act, "--may-act"),
        agents=frozenset(agents) if kind is ClientKind.AUTHORIZER else frozenset(),
        tools=frozenset(tool or ()),
    )
    printed = with_state(config, lambda state: _add(state, new))
    if as_json:
        print_json(printed)
        return
    print_text(f"{client_id} is added. Its settings, shown this once:\n")
    _print_rows({key: value for key, value in printed.items() if key != "private_key_pem"})
    if "private_key_pem" in printed:
        print_text(f"\n{printed['private_key_pem']}")


async def _add(state: State, new: NewClient) -> dict[str, object]:
    settings = state.settings
    if not settings.embedded.enabled:
        raise CommandError("the embedded authorization server is off (embedded.enabled); add it at your own")
    bindings = configured_agents(settings)[1]
    tools = {item.value for item in ToolClass}.union(tenant_tools(settings, new.tenant))
    made = await _admin(state).add(new, settings.tenants, settings.clients, bindings, tools)
    given = {"client_secret": made.client_secret, "private_key_pem": made.private_key_pem}
    return {
        "issuer": settings.public_url,
        **_described(made.client),
        **{key: value for key, value in given.items() if value is not None},
    }


@app.command("list")
def list_clients(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show every client, of the configuration and of the store. Metadata documents (`cimd`) are not clients yet."""
    settings = load_settings(config)

    async def run(store: Store) -> list[Client]:
        clients = [*configured_clients(settings).values(), *await store.clients.list()]
        return [client for client in clients if tenant in (None, client.tenant)]

    clients = sorted(with_store(settings, run), key=lambda client: (client.tenant, client.client_id))
    if as_json:
        print_json({"clients": [_described(client) for client in clients]})
        return
    print_table(
        ("Client", "Tenant", "Kind", "Agent", "Authenticates by", "From", "Last used"),
        (
            (
                client.client_id,
                client.tenant,
                client.kind.value,
                "" if client.agent is None else str(client.agent),
                client.auth.value,
                client.source.value,
                _moment(client.last_used_at) or "",
            )
            for client in clients
        ),
    )


@app.command("show")
def show(client_id: ClientArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show one client: what it may do and where it sends people."""
    settings = load_settings(config)

    async def run(store: Store) -> Client | None:
        return configured_clients(settings).get(client_id) or await store.clients.get(client_id)

    client = with_store(settings, run)
    if client is None:
        raise CommandError(f"there is no client {client_id!r}; `twogate client list` shows them", code="not_found")
    if as_json:
        print_json(_described(client))
    else:
        _print_rows(_described(client))


@app.command("remove")
def remove(client_id: ClientArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Remove a client of the store: each of its tokens is refused from the next request on."""
    with_state(config, lambda state: _admin(state).remove(client_id, state.settings.clients))
    if as_json:
        print_json({"client_id": client_id, "removed": True})
    else:
        print_text(f"{client_id} is removed, and its tokens are refused.")


@app.command("registration-token")
def registration_token(
    lifetime: Annotated[str, typer.Option(metavar="DURATION", help="How long it may be used: 1h, 7d.")] = "1d",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Print a token that lets one client register at /register, once (RFC 7591 section 3)."""
    try:
        seconds = parse_duration(lifetime)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--lifetime") from None
    if seconds > MAX_TOKEN_LIFETIME:
        raise typer.BadParameter("must be at most 30d", param_hint="--lifetime")
    printed = with_state(config, lambda state: _registration_token(state, seconds))
    if as_json:
        print_json(printed)
        return
    print_text("A token for one registration, shown this once. Send it as `Authorization: Bearer …`:\n")
    _print_rows(printed)


async def _registration_token(state: State, seconds: int) -> dict[str, object]:
    settings = state.settings
    if settings.registration is None or settings.registration.mode != "token":
        raise CommandError("the configuration has no `registration: {mode: token, …}`, which takes such tokens")
    token, expires_at = await _admin(state).registration_token(settings.registration.tenant, seconds)
    return {
        "registration_endpoint": f"{settings.public_url}/register",
        "tenant": settings.registration.tenant,
        "token": token,
        "expires_at": _moment(expires_at),
    }


def _admin(state: State) -> ClientAdmin:
    revocations = Revocations(SqlRevocationStore(state.engine))
    issuer = state.settings.public_url
    return ClientAdmin(
        issuer,
        clients=state.clients,
        removal=ClientRemoval(issuer, state.clients, SqlGrantStore(state.engine), revocations),
        tokens=SqlRegistrationStore(state.engine),
        agents=state.registry,
        audit=state.audit,
        clock=state.clock,
        rng=state.rng,
        new_key=new_agent_key,
    )


def _described(client: Client) -> dict[str, object]:
    """A client for programs; what it has not is left out, and secrets are never there."""
    described: dict[str, object] = {
        "client_id": client.client_id,
        "tenant": client.tenant,
        "kind": client.kind.value,
        "name": client.name,
        "agent": None if client.agent is None else str(client.agent),
        "auth": client.auth.value,
        "grants": sorted(grant_name(grant) for grant in client.grants),
        "redirect_uris": list(client.redirect_uris),
        "jwks_uri": client.jwks_uri,
        "may_act": client.may_act,
        "agents": sorted(map(str, client.agents)),
        "tools": sorted(client.tools),
        "defined_in": client.source.value,
        "created_at": _moment(client.created_at or None),
        "last_used_at": _moment(client.last_used_at),
        "expires_at": _moment(client.expires_at),
    }
    return {key: value for key, value in described.items() if value not in (None, "", [])}


def _print_rows(rows: dict[str, object]) -> None:
    for key, value in rows.items():
        print_text(f"{key}: {', '.join(cast('list[str]', value)) if isinstance(value, list) else value}")


def _moment(at: int | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _checked(adapter: TypeAdapter[str], text: str, hint: str) -> str:
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        context: dict[str, Any] = error.errors()[0].get("ctx", {})
        raise typer.BadParameter(str(context.get("error", "is not valid")), param_hint=hint) from None


def _grant(text: str) -> GrantType:
    try:
        return GrantType(cast("str", parse_grant(text)))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--grant") from None


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_JWKS + 1)
