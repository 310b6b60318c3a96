"""The demo's stage: a real Git repository, a real database, two real MCP servers, and Twogate in front of them.

Everything is done with the same commands that a user would type.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec

from twogate.cli.output import CommandError

REPORTER = "acme/reporter"
RETIRED = "acme/retired"
TASK = "quarterly-report"
SERVERS = ("git", "sqlite")

_START_SECONDS = 30.0

_CONFIG = """\
# The demo's configuration: two MCP servers, each behind both gates.
public_url: {public_url}
listen: "{listen}"
tls: {{certificate: server.pem, key: server.key}}
store: sqlite:///./state/twogate.db
state: state
# What a server shows of its tools is withheld until somebody approved it, and again when it changes.
pins: required

servers:
  git: {{command: ["{git_server}", "--repository", "{repository}"]}}
  sqlite: {{command: ["{sqlite_server}", "--db-path", "{database}"]}}

# What each tool does. `roles` is left out, so the shipped matrix holds: an executor may read and search, and needs an
# operation token to write.
tools:
  git.git_status: {{class: read}}
  git.git_log: {{class: read}}
  git.git_show: {{class: read}}
  git.git_diff_unstaged: {{class: read}}
  git.git_add: {{class: write}}
  git.git_commit: {{class: write}}
  sqlite.list_tables: {{class: read}}
  sqlite.describe_table: {{class: read}}
  sqlite.read_query: {{class: search}}
  sqlite.write_query: {{class: write}}

# What the task needs, and no more: `git_show` is a read that the role has, but this task does not.
tasks:
  {task}: {{tools: [git.git_log, git.git_commit, sqlite.list_tables, sqlite.read_query]}}

tenants:
  acme: {{servers: [git, sqlite]}}
"""


class AgentKey(msgspec.Struct, frozen=True):
    """An agent's settings as `twogate agent add --json` prints them."""

    client_id: str
    private_key_pem: str
    issuer: str
    token_endpoint: str

    def __repr__(self) -> str:
        """Never the key."""
        return f"AgentKey(client_id={self.client_id!r}, …)"


class Stage(msgspec.Struct, frozen=True):
    """What runs and where."""

    directory: Path
    public_url: str
    reporter: AgentKey
    retired: AgentKey
    tls: ssl.SSLContext

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.directory / "twogate.yaml"

    @property
    def audit(self) -> Path:
        """The audit trail's directory."""
        return self.directory / "state" / "audit"

    @property
    def repository(self) -> Path:
        """The Git repository."""
        return self.directory / "repository"

    def server_url(self, server: str) -> str:
        """A server's MCP endpoint, which is also the audience of its tokens."""
        return f"{self.public_url}/mcp/{server}"

    def twogate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a `twogate` command on this configuration."""
        return run([*command(), *arguments, "-c", str(self.config)])


def command() -> list[str]:
    """This very program."""
    return [sys.executable, "-m", "twogate.cli.main"]


def run(arguments: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, its output captured."""
    return subprocess.run(arguments, cwd=cwd, capture_output=True, text=True, check=False, timeout=60)  # noqa: S603


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


@contextlib.asynccontextmanager
async def set_up(directory: Path, sqlite_server: Path | None, say: Callable[[str], None]) -> AsyncGenerator[Stage]:
    """Make everything in an empty directory and serve it until the block ends.

    Raises:
        CommandError: something did not start; says what it printed.
    """
    git_server, sqlite_program = find_servers(sqlite_server)
    port = _free_port()
    public_url = f"https://localhost:{port}"
    say("making a repository, a database and a certificate authority")
    _make_repository(directory / "repository")
    _make_database(directory / "shop.db")
    _expect(run([*command(), "init", str(directory), "--public-url", public_url]))
    (directory / "twogate.yaml").write_text(
        _CONFIG.format(
            public_url=public_url,
            listen=f"127.0.0.1:{port}",
            git_server=git_server,
            sqlite_server=sqlite_program,
            repository=directory / "repository",
            database=directory / "shop.db",
            task=TASK,
        )
    )
    config = str(directory / "twogate.yaml")
    say("registering two agents")
    reporter, retired = (_add_agent(agent, config) for agent in (REPORTER, RETIRED))
    for server in SERVERS:
        # A demo only: at home a person reads what is approved.
        say(f"approving whatever {server} shows of its tools: twogate tool approve {server} --all --yes")
        _expect(run([*command(), "tool", "approve", server, "--all", "--yes", "-c", config]))
    tls = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    stage = Stage(directory, public_url, reporter, retired, tls)
    say("starting twogate serve")
    with (directory / "serve.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command(), "serve", "-c", config, stdout=log, stderr=log)
    try:
        await _wait_until_ready(stage, process)
        yield stage
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 20)
        if process.returncode is None:
            process.kill()
            await process.wait()


def _add_agent(agent: str, config: str) -> AgentKey:
    added = run([*command(), "agent", "add", agent, "--role", "executor", "--task", TASK, "--json", "-c", config])
    _expect(added)
    return msgspec.json.decode(added.stdout, type=AgentKey)


async def _wait_until_ready(stage: Stage, process: asyncio.subprocess.Process) -> None:
    deadline = asyncio.get_running_loop().time() + _START_SECONDS
    async with httpx2.AsyncClient(verify=stage.tls, trust_env=False) as http:
        while asyncio.get_running_loop().time() < deadline and process.returncode is None:
            with contextlib.suppress(httpx2.TransportError):
                if (await http.get(f"{stage.public_url}/readyz")).is_success:
                    return
            await asyncio.sleep(0.05)
    log = (stage.directory / "serve.log").read_text()[-2000:]
    raise CommandError(f"twogate serve did not get ready; its log ends with:\n{log}")


def _make_repository(path: Path) -> None:
    path.mkdir()
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false"]
    _expect(run(["git", "init", "--quiet", "--initial-branch=main", str(path)]))
    for number, text in enumerate(("Start the quarterly figures", "Correct the second quarter", "Add the summary"), 1):
        (path / "figures.txt").write_text(f"quarter {number}\n")
        _expect(run(["git", "add", "figures.txt"], path))
        _expect(run(["git", *identity, "commit", "--quiet", "-m", text], path))


def _make_database(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT, total INTEGER)")
        rows = [("Initech", 1200), ("Globex", 800), ("Hooli", 4300)]
        connection.executemany("INSERT INTO orders (customer, total) VALUES (?, ?)", rows)


def _expect(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode != 0:
        raise CommandError(f"`{' '.join(map(str, done.args))}` failed: {(done.stderr or done.stdout).strip()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ready_line(stage: Stage) -> dict[str, Any]:
    """What `--keep --json` prints when everything runs. What does not exist yet is null."""
    return {
        "directory": str(stage.directory),
        "config": str(stage.config),
        "issuer": stage.public_url,
        "mcp": None,
        "servers": {server: stage.server_url(server) for server in SERVERS},
        "console": None,
        "ca": str(stage.directory / "ca.pem"),
        "admin": None,
        "agent": {
            "client_id": stage.reporter.client_id,
            "private_key_pem": stage.reporter.private_key_pem,
            "role": "executor",
            "task": TASK,
        },
        "audit": str(stage.audit),
    }


def print_line(document: dict[str, Any]) -> None:
    """One JSON document on one line, at once."""
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()
