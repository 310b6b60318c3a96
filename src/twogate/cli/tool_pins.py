"""`twogate tool approve | pins | unapprove`: what of the servers was approved (row R-43)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
import typer

from twogate.adapters.argument_schema import ArgumentSchema
from twogate.cli.ask_tools import Asked, ask
from twogate.cli.operator_name import operator_name
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_table, print_text, printable
from twogate.cli.pin_display import blocks, changed_places, changes, state_of, visible
from twogate.cli.state import with_state, with_store
from twogate.cli.tool_choice import chosen_pairs, told_failure
from twogate.config import LibraryServer, Settings, load_settings
from twogate.config.pins import arguments_validated
from twogate.config.policy import compile_policy
from twogate.core.protocol import instructions_target
from twogate.flows.gateway.pins import Pin
from twogate.flows.pin_admin import PinAdmin, Proposal, proposals
from twogate.state import State, store_exists
from twogate.stores.sql.pins import SqlPinStore

FAILED: Final = 1
GONE, UNASKED = "not shown any more", "cannot be asked"

ServerArgument = Annotated[str, typer.Argument(metavar="SERVER", help="Its name in the configuration.")]
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TOOL]...", help="A tool, `prompt:NAME` or `instructions:`; else see --all."),
]
TenantOption = Annotated[str | None, typer.Option(help="Only for this tenant.")]


def approve(
    server: ServerArgument,
    tools: NamesArgument = None,
    tenant: TenantOption = None,
    every: Annotated[bool, typer.Option("--all", help="Also what the configuration does not classify.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for scripts.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Ask a server what it shows, show what of it is new or changed, and approve just that."""
    if as_json and not yes:
        raise typer.BadParameter("needs --yes: nobody can be asked then", param_hint="--json")
    settings = load_settings(config)
    found = _chosen(settings, _asked(settings, tenant, server), server, tools or [], every=every)
    refused = [proposal for proposal in found if proposal.problem is not None]
    chosen = [proposal for proposal in found if proposal.problem is None]
    if not as_json:
        for line in blocks(found):
            print_text(line)
    if chosen and not yes:
        typer.confirm(f"Approve {_counted(chosen)}?", abort=True)
    if chosen:
        with_state(config, lambda state: _admin(state).approve(chosen))
    if as_json:
        print_json(
            {
                "approved": [{**_named(item), "sha256": item.digest.hex(), "was": state_of(item)} for item in chosen],
                "refused": [{**_named(item), "problem": item.problem} for item in refused],
            }
        )
    else:
        print_text(f"Approved {_counted(chosen)}." if chosen else "Nothing was approved.")
    if refused:
        raise typer.Exit(FAILED)


def list_pins(
    server: Annotated[str | None, typer.Argument(metavar="[SERVER]", help="Only this server's.")] = None,
    tenant: TenantOption = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Show what was approved, and how the servers differ from it now. Gives 1 if a server cannot be asked."""
    settings = load_settings(config)
    pins = _stored(settings, tenant, server)
    pairs = chosen_pairs(settings, tenant, server)
    if server is None:
        pairs = [pair for pair in pairs if not isinstance(settings.servers[pair[1]], LibraryServer)]
    asked = _ask(settings, pairs)
    rows = _pin_rows(settings, pins, asked)
    failures = [(item, item.failure) for item in asked if item.failure is not None]
    if as_json:
        told = [{"tenant": item.tenant, "server": item.server, "message": why.message} for item, why in failures]
        print_json({"required": settings.pins == "required", "pins": [row for row, _ in rows], "failures": told})
    else:
        _print_rows(rows, required=settings.pins == "required")
        for item, why in failures:
            typer.echo(printable(f"twogate: {told_failure(item, why)}"), err=True)
    if failures:
        raise typer.Exit(FAILED)


def unapprove(
    server: ServerArgument,
    tools: NamesArgument = None,
    tenant: TenantOption = None,
    every: Annotated[bool, typer.Option("--all", help="Everything of this server that was approved.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Withdraw approvals; in force for the next request. The server is not asked."""
    if not tools and not every:
        raise typer.BadParameter("name what to withdraw, or say --all", param_hint="TOOL")
    settings = load_settings(config)
    pins = _stored(settings, tenant, server)
    if tools:
        wanted = {_target(server, name, {pin.target for pin in pins}) for name in tools}
        pins = [pin for pin in pins if pin.target in wanted]
    with_state(config, lambda state: _admin(state).withdraw(pins))
    withdrawn = [{"tenant": pin.tenant, "server": pin.server, "target": pin.target} for pin in pins]
    if as_json:
        print_json({"withdrawn": withdrawn})
    else:
        print_text(f"Withdrew {len(withdrawn)}.")


# Whom to ask, and what of it is meant.


def _asked(settings: Settings, tenant: str | None, server: str) -> list[Asked]:
    asked = _ask(settings, chosen_pairs(settings, tenant, server))
    for item in asked:
        if item.failure is not None:
            raise CommandError(told_failure(item, item.failure), code=item.failure.code)
    return asked


def _ask(settings: Settings, pairs: Sequence[tuple[str, str]]) -> list[Asked]:
    return ask(settings, pairs, everything=True)


def _chosen(
    settings: Settings, asked: Sequence[Asked], server: str, names: Sequence[str], *, every: bool
) -> list[Proposal]:
    """What is new or changed of what is meant."""
    found = _proposals(settings, asked, _stored(settings, None, server))
    if names:
        wanted = {_target(server, name, {item.target for item in found}) for name in names}
        return [item for item in found if item.target in wanted and not item.unchanged]
    policy = compile_policy(settings)
    return [
        item
        for item in found
        if not item.unchanged
        and (every or _is_instructions(item) or policy.of(item.tenant).classify(item.target) is not None)
    ]


def _is_instructions(item: Proposal) -> bool:
    return item.target == instructions_target(item.server)


def _target(server: str, name: str, known: set[str]) -> str:
    for target in (f"{server}.{name}", f"{server}.tool:{name}", name):
        if target in known:
            return target
    there_is = ", ".join(sorted(known)) or "nothing"
    raise CommandError(f"there is no {name} at {server} (there is: {there_is})", code="not_found")


def _proposals(settings: Settings, asked: Sequence[Asked], pins: Sequence[Pin]) -> list[Proposal]:
    validated = arguments_validated(settings)
    return [
        proposal
        for item in asked
        if item.failure is None
        for proposal in proposals(
            item.tenant,
            item.server,
            item.offer,
            {pin.target: pin for pin in pins if (pin.tenant, pin.server) == (item.tenant, item.server)},
            ArgumentSchema if item.server in validated else None,
        )
    ]


# What was approved.


def _stored(settings: Settings, tenant: str | None, server: str | None) -> Sequence[Pin]:
    if not asyncio.run(store_exists(settings)):  # looking makes none
        return ()
    return with_store(settings, lambda store: SqlPinStore(store.engine).list(tenant, server))


def _admin(state: State) -> PinAdmin:
    return PinAdmin(SqlPinStore(state.engine), state.audit, state.clock, operator_name())


class PinRow(msgspec.Struct, frozen=True):
    """What was approved or is shown of one target. `differences` are between the two."""

    tenant: str
    server: str
    target: str
    state: str
    sha256: str = ""
    approved_at: str = ""
    approved_by: str = ""
    differences: list[dict[str, object]] = []
    problem: str = ""


def _pin_rows(settings: Settings, pins: Sequence[Pin], asked: Sequence[Asked]) -> list[tuple[PinRow, Proposal | None]]:
    shown = {(item.tenant, item.target): item for item in _proposals(settings, asked, pins)}
    answered = {(item.tenant, item.server) for item in asked if item.failure is None}
    policy = compile_policy(settings)
    rows: list[tuple[PinRow, Proposal | None]] = []
    for pin in pins:
        item = shown.pop((pin.tenant, pin.target), None)
        gone = GONE if (pin.tenant, pin.server) in answered else UNASKED
        row = PinRow(
            pin.tenant,
            pin.server,
            pin.target,
            gone if item is None else state_of(item),
            pin.digest.hex(),
            datetime.fromtimestamp(pin.approved_at, UTC).isoformat(timespec="minutes"),
            pin.approved_by,
            [] if item is None else changed_places(item.definition, pin.definition),
            "" if item is None else item.problem or "",
        )
        rows.append((row, item))
    for item in shown.values():
        if _is_instructions(item) or policy.of(item.tenant).classify(item.target) is not None:
            row = PinRow(item.tenant, item.server, item.target, state_of(item), problem=item.problem or "")
            rows.append((row, item))
    return sorted(rows, key=lambda pair: (pair[0].tenant, pair[0].target))


def _print_rows(rows: Sequence[tuple[PinRow, Proposal | None]], *, required: bool) -> None:
    if not rows:
        print_text("Nothing was approved, and no server shows anything that the configuration classifies.")
        return
    print_table(
        ("Tenant", "Target", "State", "Approved at", "By"),
        ((row.tenant, visible(row.target), row.state, row.approved_at, row.approved_by) for row, _ in rows),
    )
    for row, item in rows:
        if row.differences and item is not None:
            print_text(f"\n{visible(row.target)} ({row.tenant}):")
            for line in changes(item.definition, item.approved):
                print_text(line)
        if row.problem:
            print_text(f"\n{visible(row.target)} ({row.tenant}) cannot be approved: {visible(row.problem)}")
    if not required:
        print_text("\nWhat was not approved may be used all the same (pins: approved).")


# What is printed.


def _counted(chosen: Sequence[Proposal]) -> str:
    return f"{len(chosen)} {'definition' if len(chosen) == 1 else 'definitions'}"


def _named(item: Proposal) -> dict[str, object]:
    return {"tenant": item.tenant, "server": item.server, "target": item.target}
