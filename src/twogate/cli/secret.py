"""`twogate secret set | list | remove`: what tenants' servers ask for, kept in Twogate's own encrypted store."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from twogate.adapters.rng import SystemRng
from twogate.adapters.secrets.sealed import SealedSecrets
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_table, print_text
from twogate.cli.state import with_state
from twogate.config import Settings, load_settings
from twogate.config.secrets import LOCAL
from twogate.flows.secret_admin import KeptSecret, SecretAdmin
from twogate.flows.secrets import MAX_SECRET
from twogate.state import State
from twogate.upstreams import local_envelope, reading_envelope

TenantArgument = Annotated[str, typer.Argument(metavar="TENANT", help="Whose secret it is.")]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What `local:NAME` in the configuration means.")]

app = typer.Typer(
    help="Secrets of tenants, for the servers that they call.", no_args_is_help=True, rich_markup_mode=None
)


def register(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="secret")


@app.command("set")
def set_secret(
    tenant: TenantArgument, name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Keep a secret, from standard input or a hidden prompt. It is used from the tenant's next call on."""
    raw = _read()
    replaced = with_state(config, lambda state: _admin(state).set(tenant, name, raw))
    servers = _used_by(load_settings(config), tenant, name)
    if as_json:
        print_json({"tenant": tenant, "name": name, "replaced": replaced, "servers": servers})
        return
    print_text(f"{tenant}'s secret {name} is {'replaced' if replaced else 'kept'}.")
    if not servers:
        print_text(f"No server uses it yet: say `secrets: {{SERVER: local:{name}}}` in tenants.{tenant}.")


@app.command("list")
def list_secrets(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show which secrets are kept and which servers use them. Their values are never shown."""
    settings = load_settings(config)
    if tenant is not None and tenant not in settings.tenants:
        there_is = ", ".join(sorted(settings.tenants))
        raise CommandError(f"there is no tenant {tenant} (there is: {there_is})", code="not_found")
    kept = asyncio.run(_list(settings, [tenant] if tenant is not None else sorted(settings.tenants)))
    rows = [
        {
            "tenant": item.tenant,
            "name": item.name,
            "set_at": datetime.fromtimestamp(item.set_at, UTC).isoformat().replace("+00:00", "Z"),
            "servers": _used_by(settings, item.tenant, item.name),
        }
        for item in kept
    ]
    if as_json:
        print_json({"secrets": rows})
    elif not rows:
        print_text("No secret is kept.")
    else:
        print_table(
            ("Tenant", "Name", "Set at", "Servers"),
            (
                (item.tenant, item.name, str(row["set_at"]), ", ".join(_used_by(settings, item.tenant, item.name)))
                for item, row in zip(kept, rows, strict=True)
            ),
        )


@app.command("remove")
def remove(
    tenant: TenantArgument, name: NameArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Forget a secret. The tenant's calls that need it are refused from the next one on."""
    removed = with_state(config, lambda state: _admin(state).remove(tenant, name))
    if not removed:
        raise CommandError(f"{tenant} has no secret {name}; `twogate secret list` shows them", code="not_found")
    if as_json:
        print_json({"tenant": tenant, "name": name, "removed": True})
    else:
        print_text(f"{tenant}'s secret {name} is removed.")


def _admin(state: State) -> SecretAdmin:
    settings = state.settings
    store = SealedSecrets(settings.state_directory, local_envelope(settings, state.rng))
    return SecretAdmin(settings.tenants, store, state.audit, state.clock)


async def _list(settings: Settings, tenants: list[str]) -> list[KeptSecret]:
    store = SealedSecrets(settings.state_directory, reading_envelope(settings, SystemRng()))
    return [item for tenant in tenants for item in await store.list(tenant)]


def _used_by(settings: Settings, tenant: str, name: str) -> list[str]:
    entry = settings.tenants.get(tenant)
    return (
        []
        if entry is None
        else sorted(server for server, item in entry.secrets.items() if (item.scheme, item.name) == (LOCAL, name))
    )


def _read() -> bytes:
    """One line: never an argument, which everybody on the machine could see and the shell would remember."""
    if sys.stdin.isatty():
        typed: str = typer.prompt("Secret", hide_input=True, confirmation_prompt="The same once more")
        return typed.encode("utf-8", "surrogateescape")
    return sys.stdin.buffer.read(MAX_SECRET + 3)
