"""`twogate tool list | classify`; what concerns approvals is in `tool_pins`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_table, print_text, printable
from twogate.cli.tool_choice import chosen_pairs, told_failure
from twogate.cli.tool_pins import approve, list_pins, unapprove
from twogate.config import Settings, load_settings
from twogate.config.tenants import tenant_tools
from twogate.core.access import ToolClass
from twogate.core.entry import parse_entry
from twogate.core.protocol import tool_target

if TYPE_CHECKING:
    from twogate.cli.ask_tools import Asked
    from twogate.flows.gateway.tool_list import Claims

FAILED: Final = 1

_NO_TOOLS: Final = ("resource:", "prompt:")

app = typer.Typer(help="Tools: what the servers have.", no_args_is_help=True, rich_markup_mode=None)


class Row(msgspec.Struct, frozen=True):
    """A tool that a server has or that the configuration classifies. `listed`: the server has it."""

    tenant: str
    server: str
    tool: str
    target: str
    tool_class: str | None = msgspec.field(name="class")
    listed: bool
    problem: str | None


class Proposal(msgspec.Struct, frozen=True):
    """A class for a tool that has none, guessed from the server's own claims; None if it claims nothing."""

    target: str
    tool_class: str | None = msgspec.field(name="class")
    because: str


def register(root: typer.Typer) -> None:
    """Add the noun."""
    for name, run in (("approve", approve), ("pins", list_pins), ("unapprove", unapprove)):
        app.command(name)(run)
    root.add_typer(app, name="tool")


@app.command("list")
def list_tools(
    tenant: Annotated[str | None, typer.Option(help="Only in this tenant's name.")] = None,
    server: Annotated[str | None, typer.Option(help="Only this server's.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Ask the servers for their tools and compare them with the configuration. Gives 1 if a server cannot be asked."""
    settings = load_settings(config)
    asked = _ask(settings, tenant, server)
    rows = [row for item in asked if item.failure is None for row in _rows(item, settings)]
    failures = [(item, item.failure) for item in asked if item.failure is not None]
    if as_json:
        told = [{"tenant": item.tenant, "server": item.server, **msgspec.structs.asdict(why)} for item, why in failures]
        print_json({"tools": rows, "failures": told})
    else:
        _print_rows(rows)
        for item, why in failures:
            typer.echo(printable(f"twogate: {told_failure(item, why)}"), err=True)
    if failures:
        raise typer.Exit(FAILED)


@app.command("classify")
def classify(
    server: Annotated[str, typer.Argument(metavar="SERVER", help="Its name in the configuration.")],
    tenant: Annotated[str | None, typer.Option(help="Only in this tenant's name.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: JsonOption = False,
) -> None:
    """Propose classes for a server's unclassified tools, as comments to be checked by a person. Changes nothing."""
    settings = load_settings(config)
    claims: dict[str, Claims] = {}
    for item in _ask(settings, tenant, server):
        if item.failure is not None:
            raise CommandError(told_failure(item, item.failure), code=item.failure.code)
        for tool in item.tools.values():
            target = tool_target(server, tool.name)
            if target not in tenant_tools(settings, item.tenant) and _can_be_classified(target):
                claims.setdefault(target, tool.claims)
    proposals = [_proposal(target, claims[target]) for target in sorted(claims)]
    if as_json:
        print_json({"server": server, "proposals": proposals})
    elif not proposals:
        print_text(f"Every tool of {server} that can be classified is.")
    else:
        print_text("\n".join(_block(proposals)))


def _ask(settings: Settings, tenant: str | None, server: str | None) -> list[Asked]:
    from twogate.cli.ask_tools import ask  # noqa: PLC0415 - it loads the gateway, and only these commands need that

    return ask(settings, chosen_pairs(settings, tenant, server))


def _rows(asked: Asked, settings: Settings) -> Iterator[Row]:
    tenant, server = asked.tenant, asked.server
    listed: set[str] = set()
    classified = tenant_tools(settings, tenant)
    for tool in sorted(asked.tools.values(), key=lambda tool: tool.name):
        target = tool_target(server, tool.name)
        listed.add(target)
        given = classified.get(target)
        problem = None
        if tool.fault is not None:
            problem = f"closed to clients of MCP 2026-07-28: {tool.fault}"
        elif not _can_be_classified(target):
            problem = "its name cannot stand in the configuration, so it cannot be classified"
        yield Row(tenant, server, tool.name, target, given.tool_class.value if given else None, True, problem)
    for target, given in classified.items():
        name = target.removeprefix(f"{server}.")
        if name != target and target not in listed and not name.startswith(_NO_TOOLS):
            name = name.removeprefix("tool:")
            yield Row(tenant, server, name, target, given.tool_class.value, False, "missing upstream")


def _can_be_classified(target: str) -> bool:
    try:
        parse_entry(target)
    except ValueError:
        return False
    return True


def _print_rows(rows: Sequence[Row]) -> None:
    if not rows:
        print_text("No server has a tool.")
        return
    print_table(
        ("Tenant", "Server", "Tool", "Class", "Note"),
        ((row.tenant, row.server, row.tool, row.tool_class or "unclassified", row.problem or "") for row in rows),
    )
    unclassified = len({row.target for row in rows if row.tool_class is None})
    if unclassified:
        print_text(
            f"\n{unclassified} of them cannot be called, because they have no class. "
            "`twogate tool classify SERVER` proposes some."
        )


def _proposal(target: str, claims: Claims) -> Proposal:
    # Annotations default to "changes things, perhaps destructively, in an open world" (MCP 2025-11-25, schema), but
    # what was not said is no claim, and an empty field makes a person look.
    said = [
        words
        for words, claim in (
            ("read-only", claims.read_only is True),
            ("not read-only", claims.read_only is False),
            ("destructive", claims.destructive is True),
            ("open world", claims.open_world is True),
        )
        if claim
    ]
    guess: ToolClass | None = None
    if claims.read_only is True:
        guess = ToolClass.FETCH if claims.open_world else ToolClass.READ
    elif claims.read_only is False or claims.destructive:
        guess = ToolClass.SEND if claims.open_world else ToolClass.WRITE
    return Proposal(target, None if guess is None else guess.value, ", ".join(said) or "nothing")


def _block(proposals: Sequence[Proposal]) -> Iterator[str]:
    yield "# Guessed from what the server says of itself, which nobody checked. Look up what each tool does, take the"
    yield "# strictest class that fits, and move the line into `tools:` of the configuration. Nothing here is in force."
    yield "#"
    yield "# tools:"
    for proposal in proposals:
        yield f"#   {proposal.target}: {{class: {proposal.tool_class or ''}}}  # the server says: {proposal.because}"
