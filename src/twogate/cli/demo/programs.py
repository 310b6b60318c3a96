"""The programs that the demo runs: Twogate's own commands, the two MCP servers, git."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from twogate.cli.output import CommandError

TIMEOUT: Final = 120.0
"""Seconds that one of them may take."""


def command() -> list[str]:
    """This very program."""
    return [sys.executable, "-m", "twogate.cli.main"]


def run(arguments: list[str], cwd: Path | None = None, typed: str = "") -> str:
    """Run a program to its end, `typed` on its standard input; what it printed.

    Raises:
        CommandError: it failed; says what it printed.
    """
    done = try_run(arguments, cwd, typed)
    if done.returncode != 0:
        raise CommandError(f"`{' '.join(arguments)}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def try_run(arguments: list[str], cwd: Path | None = None, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program to its end, also if it fails."""
    return subprocess.run(  # noqa: S603 - our own words
        arguments, cwd=cwd, input=typed, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )


def find_servers(sqlite_server: Path | None) -> tuple[str, str]:
    """The programs of the two MCP servers.

    Raises:
        CommandError: one is not installed; says how to get it.
    """
    own = Path(sys.executable).parent / "mcp-server-git"
    git_server = str(own) if own.is_file() else shutil.which("mcp-server-git")
    found = str(sqlite_server.absolute()) if sqlite_server is not None else shutil.which("mcp-server-sqlite")
    if git_server is None or shutil.which("git") is None:
        raise CommandError("the demo needs git and mcp-server-git: pip install mcp-server-git, or run `make demo`")
    if found is None or not Path(found).is_file():
        raise CommandError(
            "the demo needs mcp-server-sqlite in an environment of its own (it works with mcp<2 only); "
            "`make demo` sets it up, or name it: --sqlite-server PATH"
        )
    return git_server, found
