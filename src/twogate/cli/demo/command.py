"""`twogate demo`."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from twogate.cli.demo.browser import find_chromium
from twogate.cli.demo.printing import print_act, print_head, print_step
from twogate.cli.demo.scenery import REPORTER
from twogate.cli.demo.stage import Stage, print_line, ready_line, set_up
from twogate.cli.options import JsonOption
from twogate.cli.output import CommandError, print_json, print_text

_TERMINATED: Final = 143
"""The exit code of a process that SIGTERM ended."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


class _Played(msgspec.Struct, frozen=True):
    """A step as the JSON document has it."""

    act: str
    name: str
    gate: str
    decision: str
    why: str
    expected: bool


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep everything running until SIGTERM or Ctrl-C.")] = False,
    sqlite_server: Annotated[
        Path | None, typer.Option(metavar="PATH", help="mcp-server-sqlite, in an environment with mcp<2.")
    ] = None,
    chromium: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The approver's browser; '' for none. Else the one on the search path."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put Twogate in front of two real MCP servers; let an agent try both gates, and a person approve a call."""
    if chromium and shutil.which(chromium) is None:
        raise typer.BadParameter(f"{chromium} is no program", param_hint="--chromium")
    directory = Path(tempfile.mkdtemp(prefix="twogate-demo-"))
    try:
        passed = asyncio.run(_run(directory, sqlite_server, find_chromium(chromium), keep=keep, as_json=as_json))
    except asyncio.CancelledError:
        raise typer.Exit(_TERMINATED) from None
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if not passed:
        raise CommandError("the demo did not go as it must; see the steps that are NOT as expected")


async def _run(directory: Path, sqlite_server: Path | None, chromium: str | None, *, keep: bool, as_json: bool) -> bool:
    def say(text: str) -> None:
        if not as_json:
            print_text(f"… {text}")

    stop, playing = asyncio.Event(), asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGINT) if keep else (signal.SIGTERM,):
        # What was started must end too, however early it is.
        end = stop.set if keep or playing is None else playing.cancel
        asyncio.get_running_loop().add_signal_handler(number, end)
    async with set_up(directory, sqlite_server, say, administrator=keep) as stage:
        if keep and as_json:
            print_line(ready_line(stage))
            await stop.wait()
            return True
        passed = await _play(stage, chromium, as_json=as_json)
        if keep and stage.administrator is not None:
            await stage.twogate("agent", "enable", REPORTER)
            tenant, _, name = stage.administrator.user.partition("/")
            print_text(f"\nStill running: {stage.config}. Ctrl-C ends it.")
            print_text(f"Console: {stage.console} (its certificate is by {stage.directory / 'ca.pem'})")
            print_text(f"Organization {tenant}, name {name}, password {stage.administrator.password}")
            await stop.wait()
        return passed


async def _play(stage: Stage, chromium: str | None, *, as_json: bool) -> bool:
    # Here, because the official client is slow to import.
    from twogate.cli.demo.agent import Agent  # noqa: PLC0415
    from twogate.cli.demo.programme import acts, played  # noqa: PLC0415

    steps: list[_Played] = []
    if not as_json:
        print_head()
    async with Agent(stage) as agent:
        for act in acts(agent, chromium):
            if not as_json:
                print_act(act)
            async with aclosing(played(act)) as playing:
                async for step in playing:
                    steps.append(_Played(act.title, **msgspec.structs.asdict(step)))
                    if not as_json:
                        print_step(len(steps), step)
    verified, printed = await stage.twogate("audit", "verify", "--json")
    audit: dict[str, Any] = msgspec.json.decode(printed)
    passed = verified and all(step.expected for step in steps)
    if as_json:
        print_json({"ok": passed, "steps": steps, "audit": audit})
        return passed
    verdict = "verified" if verified else "NOT verified"
    print_text(f"\nAudit trail: {verdict}, {audit.get('events')} events in {audit.get('segments')} segments.")
    if passed:
        print_text("Every step went as it must. Next: README.md, or `twogate init` for a configuration of your own.")
    return passed
