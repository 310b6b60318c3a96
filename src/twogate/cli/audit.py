"""`twogate audit tail | verify`."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from twogate.adapters.audit_files import verify_directory
from twogate.adapters.audit_tail import Entry, Filter, printable, tail
from twogate.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption
from twogate.cli.output import CommandError, print_json, print_text, printable_json
from twogate.config import load_settings
from twogate.core.audit.chain import Finding
from twogate.core.audit.record import EventKind

app = typer.Typer(help="The audit trail.", no_args_is_help=True, rich_markup_mode=None)

_FOLLOW_INTERVAL = 0.25

DirectoryArgument = Annotated[
    Path | None, typer.Argument(metavar="[DIR]", help="The trail's directory; else the configuration's.")
]


def register(root: typer.Typer) -> None:
    """Add the noun."""
    root.add_typer(app, name="audit")


@app.command("verify")
def verify(
    directory: DirectoryArgument = None, config: ConfigOption = DEFAULT_CONFIG, as_json: JsonOption = False
) -> None:
    """Verify the hash chain of every segment, and that the segments belong together."""
    path = _directory(directory, config)
    report = verify_directory(path)
    if not report.segments:
        raise CommandError(f"there is nothing to verify in {path}: no segment", code="not_found")
    if as_json:
        print_json({"ok": report.ok, "directory": str(path), **msgspec.to_builtins(report)})
    else:
        for finding in report.problems:
            print_text(f"problem: {_place(finding)}: {finding.text}")
        for finding in report.notes:
            print_text(f"note: {_place(finding)}: {finding.text}")
        verdict = "verified" if report.ok else "NOT verified"
        print_text(f"{verdict}: {report.events} events in {report.segments} segments of {path}")
    if not report.ok:
        raise typer.Exit(1)


@app.command("tail")
def tail_events(  # noqa: PLR0913, PLR0917 - one per option
    directory: DirectoryArgument = None,
    count: Annotated[int, typer.Option("--count", "-n", min=0, max=100_000, help="How many of the last events.")] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new events.")] = False,
    agent: Annotated[str, typer.Option(help="Only this agent's.")] = "",
    tenant: Annotated[str, typer.Option(help="Only this tenant's.")] = "",
    session: Annotated[str, typer.Option(help="Only this session's.")] = "",
    reason: Annotated[str, typer.Option(help="Only this reason.")] = "",
    kind: Annotated[
        list[EventKind] | None, typer.Option(metavar="KIND", help="Only events of this kind; repeat for more.")
    ] = None,
    anomalies: Annotated[bool, typer.Option("--anomalies", help="Only what an honest agent does not do.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line, as it stands.")] = False,
) -> None:
    """Show the last events, oldest first."""
    path = _directory(directory, config)
    kinds = frozenset(kind or ())
    where = Filter(kinds=kinds, agent=agent, tenant=tenant, session=session, reason=reason, anomalies=anomalies)
    # A program gets the very line, over which the chain's hash is; a terminal must not be driven by what it holds.
    shown = printable_json if sys.stdout.isatty() else str
    for entry in tail(path, count, where=where, idle=_wait if follow else None):
        typer.echo(shown(entry.raw.decode("utf-8", "backslashreplace")) if as_json else _line(entry))


def _wait() -> bool:
    time.sleep(_FOLLOW_INTERVAL)
    return True


def _directory(directory: Path | None, config: Path) -> Path:
    path = load_settings(config).state_directory / "audit" if directory is None else directory
    if not path.is_dir():
        raise CommandError(f"{path} is not a directory; nothing was written there yet", code="not_found")
    return path


def _place(finding: Finding) -> str:
    return f"{finding.segment}:{finding.line}" if finding.line else finding.segment


def _line(entry: Entry) -> str:
    event = entry.event
    if event is None:
        return printable(entry.raw.decode("utf-8", "replace"))
    at = datetime.fromtimestamp(event.at / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    who = f"{event.tenant}/{event.agent}" if event.agent else event.address
    what = event.target or event.method or event.server
    parts = [at, event.kind.value, who, what, event.task and f"task={event.task}", event.outcome]
    parts += [event.reason and f"reason={event.reason}", f"count={event.count}" if event.count else ""]
    parts += [event.detail and f"({event.detail})", "ANOMALY" if event.anomaly else ""]
    return printable("  ".join(part for part in parts if part))
