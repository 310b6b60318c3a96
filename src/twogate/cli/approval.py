"""`twogate approval list | show | deny | verify | notify-test`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from twogate.adapters.envelope import KEY_FILE, LocalEnvelope
from twogate.adapters.signers.local import LocalSecret
from twogate.approvals import Approvals, open_approvals
from twogate.cli.operator_name import operator_name
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, one_line, print_json, print_table, print_text
from twogate.cli.state import with_state
from twogate.config import load_settings
from twogate.core.approval import Decision
from twogate.core.approval import State as Stands
from twogate.core.audit.record import EventKind
from twogate.flows.approvals.parked import Parked
from twogate.state import State

MOST: Final = 200
"""Calls that are listed."""

_ALL: Final = 1_000_000
_COLUMNS: Final = ("approval", "tenant", "tool", "agent", "state", "asked_at", "deadline")

app = typer.Typer(help="Calls that wait for people.", no_args_is_help=True, rich_markup_mode=None)

ApprovalArgument = Annotated[str, typer.Argument(metavar="APPROVAL", help="Its id.")]


def register(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="approval")


@app.command("list")
def list_approvals(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Also what was decided.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show the calls that wait, newest first."""
    settings = load_settings(config)
    if tenant is not None and tenant not in settings.tenants:
        raise CommandError(f"there is no tenant {tenant!r}; tenants: {', '.join(sorted(settings.tenants))}")
    states = frozenset(Stands) if everything else frozenset({Stands.PENDING})
    rows: list[dict[str, object]] = []
    cut: list[str] = []

    async def run(state: State) -> None:
        parking = _approvals(state).parking
        for name in sorted(settings.tenants) if tenant is None else [tenant]:
            found = await parking.list(name, states, MOST + 1)
            if len(found) > MOST:
                cut.append(name)
            for one in found[:MOST]:
                current = await parking.current(one.call.id)
                if current is not None and current.state in states:
                    rows.append(_row(current))

    with_state(config, run)
    if as_json:
        print_json({"approvals": rows, "cut": cut})
    elif not rows:
        print_text("Nothing waits." if not everything else "Nothing waited yet.")
    else:
        print_table(
            ("Approval", "Tenant", "Tool", "Agent", "State", "Asked", "Deadline"),
            ([str(row[name]) for name in _COLUMNS] for row in rows),
        )
    if cut and not as_json:
        print_text(f"\nThere are more than the newest {MOST} of {', '.join(cut)}.")


@app.command("show")
def show(approval: ApprovalArgument, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False) -> None:
    """Show one call in full, and what people said."""
    from twogate.flows.approvals.view import readable  # noqa: PLC0415 - only here

    async def run(state: State) -> tuple[dict[str, object], bytes]:
        parking = _approvals(state).parking
        parked = await parking.current(approval)
        if parked is None:
            text = f"there is no approval {approval}; `twogate approval list --all` shows them"
            raise CommandError(text, code="not_found")
        votes = [
            {"approver": vote.approver, "decision": vote.decision.value, "at": _iso(vote.at), "comment": vote.comment}
            for vote in parked.votes
        ]
        return {**_row(parked), "digest": parked.call.digest, "votes": votes}, await parking.params(parked)

    found, params = with_state(config, run)
    members = readable(params)
    if as_json:
        print_json({**found, "call": msgspec.json.decode(params)})
        return
    print_table(("", ""), ((name.replace("_", " "), str(value)) for name, value in found.items() if name != "votes"))
    for member in members:
        print_text(f"\n{member.name}:\n{member.text}")
    votes = found["votes"]
    if isinstance(votes, list) and votes:
        print_text("\nsaid so far: " + msgspec.json.encode(votes).decode())


@app.command("deny")
def deny(
    approval: ApprovalArgument,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Deny a call. Approving takes a passkey, and so the page."""

    async def run(state: State) -> dict[str, object]:
        voting = _approvals(state).voting
        if voting is None:
            raise CommandError("public_url is an address: nothing can wait for an approval here", code="not_found")
        return _row(await voting.deny_as_operator(approval, operator_name(), comment))

    row = with_state(config, run)
    if as_json:
        print_json(row)
    else:
        print_text(f"{approval} is denied.")


@app.command("verify")
def verify(
    approval: Annotated[str | None, typer.Argument(metavar="[APPROVAL]", help="One; else every one.")] = None,
    directory: Annotated[Path | None, typer.Option("--directory", metavar="DIR", help="A trail's directory.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Verify the passkey signatures of approvals, from the audit trail alone. Gives 1 if one does not hold.

    Whether the trail itself is whole says `twogate audit verify`.
    """
    from twogate.adapters.audit_tail import Filter, tail  # noqa: PLC0415 - only here
    from twogate.adapters.passkeys import PasskeyLibrary  # noqa: PLC0415
    from twogate.flows.approvals.evidence import verify_event  # noqa: PLC0415

    origin = None
    if directory is None:
        settings = load_settings(config)
        directory, origin = settings.state_directory / "audit", settings.public_url
    if not directory.is_dir():
        raise CommandError(f"{directory} is not a directory; nothing was written there yet", code="not_found")
    where = Filter(kinds=frozenset({EventKind.APPROVAL_VOTED}), request=approval or "")
    found = [
        verify_event(event, PasskeyLibrary, origin)
        for event in (entry.event for entry in tail(directory, _ALL, where=where))
        # A denial is not signed: one that brings a signature was an approval.
        if event is not None and (event.decision == Decision.APPROVE.value or event.evidence)
    ]
    if approval is not None and not found:
        raise CommandError(f"nobody approved {approval}, as far as {directory} tells", code="not_found")
    ok = all(one.ok for one in found)
    if as_json:
        print_json({"ok": ok, "approvals": [{**msgspec.structs.asdict(one), "ok": one.ok} for one in found]})
    else:
        for one in found:
            verdict = "holds" if one.ok else f"DOES NOT HOLD, {one.problem}"
            # The trail may be anybody's: none of its texts may begin a line of its own.
            said = f"{one.approval} of {one.tool} by {one.approver} (signed as {one.subject or '-'}): {verdict}"
            print_text(one_line(said))
        print_text(f"{sum(one.ok for one in found)} of {len(found)} approvals hold.")
    if not ok:
        raise typer.Exit(1)


@app.command("notify-test")
def notify_test(
    channel: Annotated[str | None, typer.Option(metavar="NAME", help="Only this channel of `notify`.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Send a test message to every channel. Gives 1 if one was not taken."""
    from twogate.cli.notify_test import try_channels  # noqa: PLC0415 - only here

    settings = load_settings(config)
    if channel is not None and channel not in settings.notify:
        raise CommandError(f"there is no channel {channel!r}; channels: {', '.join(settings.notify) or 'none'}")
    rows = try_channels(settings, channel)
    if as_json:
        print_json({"ok": all(row.ok for row in rows), "channels": [{**row.as_dict(), "ok": row.ok} for row in rows]})
    else:
        for row in rows:
            print_text(f"{row.channel} ({row.way}): {'sent' if row.ok else 'NOT SENT, ' + row.problem}")
        if not rows:
            print_text("There is no channel in `notify`.")
    if not all(row.ok for row in rows):
        raise typer.Exit(1)


def _approvals(state: State) -> Approvals:
    keys = LocalSecret.open(state.settings.state_directory / "keys", KEY_FILE)
    return open_approvals(state, state.settings, LocalEnvelope(keys, state.rng))


def _row(parked: Parked) -> dict[str, object]:
    call = parked.call
    return {
        "approval": call.id,
        "tenant": call.tenant,
        "tool": call.tool,
        "agent": call.agent,
        "user": None if call.user is None else f"{call.user.issuer} {call.user.subject}",
        "task": call.task,
        "session": call.session,
        "state": parked.state.value,
        "asked_at": _iso(call.created_at),
        "deadline": _iso(call.deadline),
    }


def _iso(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
