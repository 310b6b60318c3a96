"""The demo's stage: a real Git repository, a real database, two real MCP servers, and Twogate in front of them.

Everything is done with the same commands that a user would type.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec

from twogate.adapters.rng import SystemRng
from twogate.cli.demo.programs import command, find_servers, run, try_run
from twogate.cli.demo.scenery import (
    ADMINISTRATOR,
    APPROVER,
    AUTHORIZER,
    REPORTER,
    SERVERS,
    TASK,
    TENANT,
    agent_in,
    authorizer_in,
    make_database,
    make_repository,
    repository_in,
    write_config,
)
from twogate.cli.output import CommandError
from twogate.core.approval import Duty

_START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 20.0
_POLL: Final = 0.05
_TOLD: Final = 2000
_PASSWORD_BYTES: Final = 12


class AgentKey(msgspec.Struct, frozen=True):
    """An agent's settings as `twogate agent add --json` prints them."""

    client_id: str
    private_key_pem: str
    issuer: str
    token_endpoint: str

    def __repr__(self) -> str:
        """Never the key."""
        return f"AgentKey(client_id={self.client_id!r}, …)"


class Login(msgspec.Struct, frozen=True):
    """A person's way in by password; `user` is TENANT/NAME."""

    user: str
    password: str

    def __repr__(self) -> str:
        """Never the password."""
        return f"Login(user={self.user!r}, …)"


class Invitation(msgspec.Struct, frozen=True):
    """What `twogate user add --json` prints, as far as it is needed here."""

    link: str

    def __repr__(self) -> str:
        """Never the link."""
        return "Invitation(…)"


class Stage(msgspec.Struct, frozen=True):
    """What runs and where. The administrator exists only if somebody may use it."""

    directory: Path
    public_url: str
    reporter: AgentKey
    approver: Invitation
    administrator: Login | None
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
        return repository_in(self.directory)

    @property
    def console(self) -> str:
        """Where people look and decide."""
        return f"{self.public_url}/console"

    def server_url(self, server: str) -> str:
        """A server's MCP endpoint, which is also the audience of its tokens."""
        return f"{self.public_url}/mcp/{server}"

    async def twogate(self, *arguments: str) -> tuple[bool, str]:
        """Run a `twogate` command on this configuration: whether it went well, and what it printed."""
        done = await asyncio.to_thread(try_run, [*command(), *arguments, "-c", str(self.config)])
        return done.returncode == 0, done.stdout or done.stderr


@contextlib.asynccontextmanager
async def set_up(
    directory: Path, sqlite_server: Path | None, say: Callable[[str], None], *, administrator: bool
) -> AsyncGenerator[Stage]:
    """Make everything in an empty directory and serve it until the block ends; with `administrator`, one is made.

    Raises:
        CommandError: something did not start; says what it printed.
    """
    git_server, sqlite_program = find_servers(sqlite_server)
    port = _free_port()
    public_url = f"https://localhost:{port}"
    say("making a repository, a database and a certificate authority")
    await asyncio.gather(
        asyncio.to_thread(make_repository, directory),
        asyncio.to_thread(make_database, directory),
        asyncio.to_thread(run, [*command(), "init", str(directory), "--public-url", public_url]),
    )
    config = directory / "twogate.yaml"
    listen = f"127.0.0.1:{port}"
    write_config(config, public_url=public_url, listen=listen, git_server=git_server, sqlite_server=sqlite_program)
    hands = _Hands(config)
    say(f"registering an agent, a person who approves, and a program that signs: {REPORTER}, {APPROVER}, {AUTHORIZER}")
    # First and alone, since it makes the database.
    reporter = await hands.agent()
    say("starting twogate serve")
    # In a demo only: at home a person reads what is approved.
    say("approving whatever the two servers show of their tools: twogate tool approve git --all --yes")
    tls = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    with (directory / "serve.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command(), "serve", "-c", str(config), stdout=log, stderr=log)
    try:
        approver, login, _ = await asyncio.gather(
            hands.approver(),
            hands.administrator() if administrator else _nobody(),
            asyncio.gather(
                hands.authorizer(),
                *(hands.twogate("tool", "approve", server, "--all", "--yes") for server in SERVERS),
                _ready(f"{public_url}/readyz", tls, process, directory / "serve.log"),
            ),
        )
        yield Stage(directory, public_url, reporter, approver, login, tls)
    finally:
        await _end(process)


class _Hands:
    """What an operator types before anybody calls."""

    def __init__(self, config: Path) -> None:
        self._config = config

    async def twogate(self, *arguments: str, typed: str = "") -> str:
        return await asyncio.to_thread(run, [*command(), *arguments, "-c", str(self._config)], typed=typed)

    async def agent(self) -> AgentKey:
        added = await self.twogate("agent", "add", REPORTER, "--role", "executor", "--task", TASK, "--json")
        _keep(agent_in(self._config.parent), added)
        return msgspec.json.decode(added, type=AgentKey)

    async def approver(self) -> Invitation:
        added = await self.twogate("user", "add", APPROVER, "--duty", Duty.APPROVER, "--json")
        return msgspec.json.decode(added, type=Invitation)

    async def authorizer(self) -> None:
        """It signs for one tool of one agent. Its credentials are kept in a file that no tool of the agent reads."""
        agent, tool = ("--agent", REPORTER), ("--tool", "sqlite.write_query")
        added = await self.twogate(
            *("client", "add", AUTHORIZER, "--tenant", TENANT, "--kind", "authorizer", *agent, *tool, "--json")
        )
        _keep(authorizer_in(self._config.parent), added)

    async def administrator(self) -> Login:
        """Somebody with every duty, and a password that nobody chose."""
        duties = [part for duty in Duty for part in ("--duty", duty.value)]
        await self.twogate("user", "add", ADMINISTRATOR, *duties)
        login = Login(ADMINISTRATOR, SystemRng().token(_PASSWORD_BYTES).hex())
        await self.twogate("user", "passwd", ADMINISTRATOR, "--prompt", typed=f"{login.password}\n")
        return login


def _keep(path: Path, credentials: str) -> None:
    path.touch(mode=0o600)
    path.write_text(credentials)


async def _nobody() -> None:
    return None


async def _ready(url: str, tls: ssl.SSLContext, process: asyncio.subprocess.Process, log: Path) -> None:
    clock = asyncio.get_running_loop()
    deadline = clock.time() + _START_SECONDS
    async with httpx2.AsyncClient(verify=tls, trust_env=False) as http:
        while clock.time() < deadline and process.returncode is None:
            with contextlib.suppress(httpx2.TransportError):
                if (await http.get(url)).is_success:
                    return
            await asyncio.sleep(_POLL)
    end = (await asyncio.to_thread(log.read_text))[-_TOLD:]
    raise CommandError(f"twogate serve did not get ready; its log ends with:\n{end}")


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    if process.returncode is None:
        process.kill()
        await process.wait()


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
        "console": stage.console,
        "ca": str(stage.directory / "ca.pem"),
        "admin": stage.administrator,
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
    sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    sys.stdout.flush()
