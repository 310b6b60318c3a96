"""`twogate demo`."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from twogate.cli.demo.stage import print_line, ready_line, set_up
from twogate.cli.options import JsonOption
from twogate.cli.output import CommandError, print_json, print_table, print_text

if TYPE_CHECKING:
    from twogate.cli.demo.agent import Step


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running until SIGTERM or Ctrl-C.")] = False,
    sqlite_server: Annotated[
        Path | None, typer.Option(metavar="PATH", help="mcp-server-sqlite, in an environment with mcp<2.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put Twogate in front of two real MCP servers and let an agent try both gates."""
    directory = Path(tempfile.mkdtemp(prefix="twogate-demo-"))
    try:
        passed = asyncio.run(_play(directory, sqlite_server, keep=keep, as_json=as_json))
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if not passed:
        raise CommandError("the demo did not go as it must; see the steps marked NOT as expected")


async def _play(directory: Path, sqlite_server: Path | None, *, keep: bool, as_json: bool) -> bool:
    def say(text: str) -> None:
        if not as_json:
            print_text(f"… {text}")

    stop = asyncio.Event()
    if keep:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with set_up(directory, sqlite_server, say) as stage:
        if keep and as_json:
            print_line(ready_line(stage))
            await stop.wait()
            return True
        say("an agent goes through both gates\n")
        from twogate.cli.demo.agent import DemoAgent  # noqa: PLC0415 - the official client is slow to import

        steps = await DemoAgent(stage).play()
        verified = stage.twogate("audit", "verify", "--json")
        passed = all(step.expected for step in steps) and verified.returncode == 0
        _show(steps, msgspec.json.decode(verified.stdout), passed=passed, as_json=as_json)
        if keep:
            print_text(f"\nStill running: {stage.config}. Ctrl-C ends it.")
            await stop.wait()
        return passed


def _show(steps: list[Step], audit: dict[str, Any], *, passed: bool, as_json: bool) -> None:
    if as_json:
        print_json({"ok": passed, "steps": steps, "audit": audit})
        return
    rows = [
        (
            str(number),
            step.name,
            step.gate,
            step.decision,
            step.why,
            "as expected" if step.expected else "NOT as expected",
        )
        for number, step in enumerate(steps, 1)
    ]
    print_table(("", "Step", "Gate", "Decision", "Why", ""), rows)
    verdict = "verified" if audit.get("ok") else "NOT verified"
    print_text(f"\nAudit trail: {verdict}, {audit.get('events')} events in {audit.get('segments')} segments.")
    if passed:
        print_text("Every step went as it must. Next: README.md, or `twogate init` for a configuration of your own.")
