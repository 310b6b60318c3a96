"""`twogate user add | list | change | duties | link | passkeys | passwd | disable | enable`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, TypeVar, cast

import typer
from pydantic import TypeAdapter

from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_table, print_text
from twogate.cli.state import with_state, with_store
from twogate.config import load_settings
from twogate.config.values import TenantName
from twogate.core.approval import Duty
from twogate.core.user_name import parse_user_name
from twogate.flows.authserver.links import LinkPurpose
from twogate.flows.authserver.passkeys import Passkey
from twogate.flows.authserver.people import User
from twogate.flows.authserver.user_admin import NewUser, UserAdmin
from twogate.people import user_admin
from twogate.state import State, Store
from twogate.stores.sql.passkeys import SqlPasskeyStore
from twogate.stores.sql.users import SqlUserStore

T = TypeVar("T")

MAX_LINE: Final = 2048
"""Characters of a password's line on standard input."""

_TENANT: Final[TypeAdapter[str]] = TypeAdapter(TenantName)

UserArgument = Annotated[str, typer.Argument(metavar="TENANT/NAME", help="The person.")]
RoleOption = Annotated[list[str] | None, typer.Option("--role", help="A role of theirs; repeat for more.")]
GroupOption = Annotated[list[str] | None, typer.Option("--group", help="A group that they are in; repeat for more.")]
DutyOption = Annotated[
    list[Duty] | None, typer.Option("--duty", help="What they may do in the console; repeat for more.")
]
DisplayOption = Annotated[str | None, typer.Option("--display-name", help="How pages call them.")]

app = typer.Typer(help="People: who may log in.", no_args_is_help=True, rich_markup_mode=None)


def register(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="user")


@app.command("add")
def add(
    user: UserArgument,
    role: RoleOption = None,
    group: GroupOption = None,
    duty: DutyOption = None,
    display_name: DisplayOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Add a person; print the one-time link by which they set a password and a passkey."""
    tenant, name = _parse(user)
    new = NewUser(tenant, name, display_name or "", tuple(role or ()), tuple(group or ()), tuple(duty or ()))
    added, link, expires_at = _with_admin(config, lambda admin: admin.add(new))
    if as_json:
        print_json({**_described(added), "link": link, "link_expires_at": _iso(expires_at)})
        return
    print_text(f"{_full_name(added)} is added.\n")
    _print_link(link, expires_at, "set a password and a passkey")


@app.command("list")
def list_users(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's people.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show people, how they can log in, and when they last did."""
    settings = load_settings(config)
    if tenant is not None and tenant not in settings.tenants:
        raise CommandError(f"there is no tenant {tenant!r}; tenants: {', '.join(sorted(settings.tenants))}")

    async def run(store: Store) -> list[dict[str, object]]:
        people, keys = SqlUserStore(store.engine), SqlPasskeyStore(store.engine)
        last = await people.last_logins(tenant)
        return [
            {
                **_described(user),
                "password": bool(await people.password_hash(user.tenant, user.subject)),
                "passkeys": len(await keys.list(user.tenant, user.subject)),
                "last_login_at": _iso(last.get((user.tenant, user.subject))),
            }
            for user in await people.list(tenant)
        ]

    rows = with_store(settings, run)
    if as_json:
        print_json({"users": rows})
        return
    print_table(
        ("User", "Display name", "Roles", "Groups", "Duties", "State", "Logs in by", "Last login"),
        (
            (
                str(row["user"]),
                str(row["display_name"]),
                _joined(row["roles"]),
                _joined(row["groups"]),
                _joined(row["duties"]),
                str(row["state"]),
                _ways(row),
                str(row["last_login_at"] or "never"),
            )
            for row in rows
        ),
    )


@app.command("change")
def change(
    user: UserArgument,
    role: RoleOption = None,
    group: GroupOption = None,
    display_name: DisplayOption = None,
    no_roles: Annotated[bool, typer.Option("--no-roles", help="Take all roles away.")] = False,
    no_groups: Annotated[bool, typer.Option("--no-groups", help="Take the person out of all groups.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Give a person exactly these roles or groups, or another display name; in force from their next token on."""
    if (role and no_roles) or (group and no_groups):
        raise typer.BadParameter("either names some or takes all away", param_hint="--no-roles, --no-groups")
    roles = tuple(role or ()) if role or no_roles else None
    groups = tuple(group or ()) if group or no_groups else None
    if roles is None and groups is None and display_name is None:
        raise typer.BadParameter("nothing to change", param_hint="--role, --group, --display-name")

    async def run(admin: UserAdmin) -> User:
        found = await admin.find(*_parse(user))
        return await admin.change(found, display_name=display_name, roles=roles, groups=groups)

    changed = _with_admin(config, run)
    if as_json:
        print_json(_described(changed))
    else:
        print_text(f"{_full_name(changed)} is changed.")


@app.command("duties")
def duties(
    user: UserArgument,
    duty: Annotated[list[Duty] | None, typer.Argument(help="All of their duties; none takes them away.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Give a person exactly these duties: what they may see and do here as a person; in force from their next click."""

    async def run(admin: UserAdmin) -> User:
        return await admin.change(await admin.find(*_parse(user)), duties=tuple(duty or ()))

    changed = _with_admin(config, run)
    if as_json:
        print_json(_described(changed))
    else:
        print_text(f"{_full_name(changed)} has these duties: {', '.join(changed.duties) or 'none'}.")


@app.command("link")
def link(
    user: UserArgument,
    purpose: Annotated[LinkPurpose, typer.Option(help="What the link allows once.")] = LinkPurpose.PASSKEY,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Print a one-time link by which a person enrols a passkey, sets a password, or both (welcome)."""
    if purpose is LinkPurpose.DONE:
        raise typer.BadParameter("welcome, password or passkey", param_hint="--purpose")
    _issue(user, purpose, config, as_json=as_json)


@app.command("passkeys")
def passkeys(
    user: UserArgument,
    remove: Annotated[
        str | None, typer.Option(metavar="ID", help="Remove this one, and log the person's browsers out.")
    ] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show a person's passkeys, or remove one that is lost or stolen."""

    async def run(admin: UserAdmin) -> tuple[User, Sequence[Passkey]]:
        found = await admin.find(*_parse(user))
        if remove is not None:
            await admin.remove_passkey(found, remove)
        return found, await admin.passkeys(found)

    found, kept = _with_admin(config, run)
    rows = [
        {
            "id": passkey.credential_id,
            "label": passkey.label,
            "created_at": _iso(passkey.created_at),
            "last_used_at": _iso(passkey.last_used_at),
        }
        for passkey in kept
    ]
    if as_json:
        print_json({"user": _full_name(found), "passkeys": rows})
        return
    if remove is not None:
        print_text(f"The passkey {remove} is removed; the browsers of {_full_name(found)} are logged out.\n")
    if not rows:
        print_text(f"{_full_name(found)} has no passkey.")
        return
    print_table(
        ("Id", "Label", "Since", "Last used"), ([str(value or "never") for value in row.values()] for row in rows)
    )


@app.command("passwd")
def passwd(
    user: UserArgument,
    prompt: Annotated[
        bool, typer.Option("--prompt", help="Set it here: typed twice, or one line of standard input.")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Print a one-time link by which a person sets a new password; passkeys stay as they are."""
    if not prompt:
        _issue(user, LinkPurpose.PASSWORD, config, as_json=as_json)
        return
    typed = _read_password()

    async def run(admin: UserAdmin) -> User:
        found = await admin.find(*_parse(user))
        await admin.set_password(found, typed)
        return found

    found = _with_admin(config, run)
    if as_json:
        print_json({**_described(found), "password": True})
    else:
        print_text(f"The password of {_full_name(found)} is set; their browsers are logged out.")


@app.command("disable")
def disable(user: UserArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Lock a person out: logins, links, grants and tokens of theirs are refused from the next request on."""
    _switch(user, config, lambda admin, found: admin.disable(found), "disabled", as_json=as_json)


@app.command("enable")
def enable(user: UserArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Let a person log in again; what they had granted stays revoked."""
    _switch(user, config, lambda admin, found: admin.enable(found), "enabled", as_json=as_json)


def _switch(
    user: str, config: Path, switch: Callable[[UserAdmin, User], Awaitable[bool]], state: str, *, as_json: bool
) -> None:
    async def run(admin: UserAdmin) -> bool:
        return await switch(admin, await admin.find(*_parse(user)))

    changed = _with_admin(config, run)
    if as_json:
        print_json({"user": user, "state": state, "changed": changed})
    else:
        print_text(f"{user} is {state}." if changed else f"{user} was {state} already.")


def _issue(user: str, purpose: LinkPurpose, config: Path, *, as_json: bool) -> None:
    async def run(admin: UserAdmin) -> tuple[User, tuple[str, int]]:
        found = await admin.find(*_parse(user))
        return found, await admin.link(found, purpose)

    found, (made, expires_at) = _with_admin(config, run)
    if as_json:
        described = {"user": _full_name(found), "subject": found.subject, "purpose": purpose.value}
        print_json({**described, "link": made, "link_expires_at": _iso(expires_at)})
        return
    allowed = {
        LinkPurpose.PASSWORD: "set a password",
        LinkPurpose.PASSKEY: "enrol a passkey",
    }.get(purpose, "set a password and a passkey")
    _print_link(made, expires_at, allowed)


def _with_admin(config: Path, use: Callable[[UserAdmin], Awaitable[T]]) -> T:
    async def run(state: State) -> T:
        if not state.settings.embedded.enabled:
            raise CommandError("the embedded authorization server is off (embedded.enabled); nobody can log in here")
        return await use(user_admin(state))

    return with_state(config, run)


def _parse(user: str) -> tuple[str, str]:
    tenant, _, typed = user.partition("/")
    name = parse_user_name(typed)
    try:
        _TENANT.validate_python(tenant)
    except ValueError:
        name = None
    if name is None:
        raise typer.BadParameter(f"{user!r} is nobody's name, like acme/alice", param_hint="TENANT/NAME")
    return tenant, name


def _read_password() -> str:
    if sys.stdin.isatty():
        typed: str = typer.prompt("New password", hide_input=True, confirmation_prompt="The same once more")
        return typed
    line = sys.stdin.readline(MAX_LINE + 1)
    if len(line) > MAX_LINE or not line.strip("\n"):
        raise CommandError("standard input holds no password: one line is read")
    return line.removesuffix("\n").removesuffix("\r")


def _described(user: User) -> dict[str, object]:
    return {
        "user": _full_name(user),
        "subject": user.subject,
        "display_name": user.display_name,
        "roles": list(user.roles),
        "groups": list(user.groups),
        "duties": [duty.value for duty in user.duties],
        "state": "disabled" if user.disabled else "enabled",
        "provider": user.provider,
    }


def _full_name(user: User) -> str:
    return f"{user.tenant}/{user.name}"


def _ways(row: dict[str, object]) -> str:
    if row["provider"] is not None:
        # Their passkeys sign approvals and log nobody in.
        return str(row["provider"])
    ways = (["password"] if row["password"] else []) + ([f"{row['passkeys']} passkeys"] if row["passkeys"] else [])
    return ", ".join(ways) or "nothing yet"


def _joined(values: object) -> str:
    return ", ".join(str(name) for name in cast("list[object]", values)) if isinstance(values, list) else ""


def _print_link(link: str, expires_at: int, allowed: str) -> None:
    print_text(f"Give them this link, by a way that nobody else reads. It lets them {allowed}, once:\n")
    print_text(f"    {link}\n")
    print_text(f"It is good until {_iso(expires_at)}; earlier links of theirs are void.")


def _iso(at: int | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
