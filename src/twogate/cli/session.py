"""`twogate session list | end`."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from typing import Annotated, Any

import typer

from twogate.adapters.audit_reading import AuditReader
from twogate.cli.operator_name import by_operator
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import print_json, print_table, print_text
from twogate.cli.state import with_state, with_store
from twogate.config import load_settings
from twogate.core.entry import WITHHELD
from twogate.core.session import Session
from twogate.flows.console.trail import recent_if_read
from twogate.flows.session_admin import SessionAdmin
from twogate.state import State, Store

app = typer.Typer(help="Sessions: which tasks are under way.", no_args_is_help=True, rich_markup_mode=None)


def register(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="session")


@app.command("list")
def list_sessions(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show the sessions whose deadline has not passed, with the calls that were refused to each in the last day."""

    async def run(store: Store) -> list[dict[str, object]]:
        now = store.clock.now()
        found = await store.sessions.list_unexpired(now, tenant)
        refused = await _refused(store, {session.principal.tenant for session in found})
        return [_row(session, now, refused.get(session.principal.tenant)) for session in found]

    rows = with_store(load_settings(config), run)
    if as_json:
        print_json({"sessions": rows})
    elif not rows:
        print_text("No session is under way.")
    else:
        print_table(
            ("Session", "Agent", "User", "Task", "Tools", "Refused", "Seconds left", "State"),
            (
                (
                    str(row["session"]),
                    str(row["agent"]),
                    str(row["user"] or "-"),
                    str(row["task"]),
                    str(row["tools"]),
                    "-" if row["refused"] is None else str(row["refused"]),
                    str(row["seconds_left"]),
                    str(row["state"]),
                )
                for row in rows
            ),
        )


@app.command("end")
def end(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="Its id, as `session list` shows it.")],
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """End a session now. Its task stays taken until the deadline, so ending frees nothing for another one."""

    def run(state: State) -> Coroutine[Any, Any, Session]:
        return SessionAdmin(state.sessions, state.audit, state.clock).end(session, by_operator())

    ended = with_state(config, run)
    if as_json:
        print_json({"session": ended.id, "state": "ended"})
    else:
        print_text(f"Session {ended.id} is ended.")


async def _refused(store: Store, tenants: Iterable[str]) -> Mapping[str, Mapping[str, int]]:
    """Refused calls by tenant and session, as the console counts them: on this machine's trail, where there is one."""
    reader = AuditReader(store.settings.state_directory / "audit", store.clock)
    found = {tenant: await recent_if_read(reader, tenant) for tenant in tenants}
    return {tenant: recent.refused for tenant, recent in found.items() if recent is not None}


def _row(session: Session, now: int, refused: Mapping[str, int] | None) -> dict[str, object]:
    principal = session.principal
    held = {name for name in session.targets if not name.startswith(WITHHELD)}
    return {
        "session": session.id,
        "agent": f"{principal.tenant}/{principal.agent}",
        "issuer": principal.issuer,
        "user": None if principal.user is None else f"{principal.user.subject} ({principal.user.issuer})",
        "task": session.task,
        "targets": sorted(held),
        "withheld": sorted(name.removeprefix(WITHHELD) for name in session.targets - held),
        "tools": len(held),
        "refused": None if refused is None else refused.get(session.id, 0),
        "deadline": session.deadline,
        "seconds_left": session.deadline - now,
        "state": "live" if session.ended_at is None else "ended",
    }
