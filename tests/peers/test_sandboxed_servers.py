"""Real servers in a sandbox: mcp-server-git writes where it may, the reference server on Node runs at all."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from peers.peers import NODE_PEERS
from peers.servers import reference_command
from stdio_servers.harness import BOT, Client, StepClock, messages
from twogate.adapters.upstream.stdio import StdioLimits, StdioUpstream
from twogate.adapters.upstream.stdio_plan import Account, SandboxPlan
from twogate.config.references_sandbox import python_directories
from twogate.config.sandbox import HIDDEN, Sandbox

pytestmark = pytest.mark.peer

GIT = ("git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")


@pytest.fixture
def plan(tmp_path: Path) -> SandboxPlan:
    """As the settings' defaults have it; under root with an account."""
    nobody = pwd.getpwnam("nobody")
    defaults = Sandbox()
    made = SandboxPlan(
        network=False,
        hidden=tuple(path.resolve() for path in HIDDEN),
        readable=tuple(python_directories()),
        writable=(),
        accounts={BOT.tenant: Account(nobody.pw_uid, nobody.pw_gid)} if os.geteuid() == 0 else None,
        memory=defaults.memory,
        processes=defaults.processes,
        open_files=defaults.open_files,
    )
    if sys.platform != "linux" or (failed := made.probe(BOT.tenant, None)) is not None:
        pytest.skip(
            f"THIS SYSTEM HAS NO SANDBOX FOR STDIO SERVERS: {failed if sys.platform == 'linux' else 'no Linux'}"
        )
    return made


@pytest.fixture
def repository(tmp_path: Path, plan: SandboxPlan) -> Path:
    where = tmp_path.resolve() / "repository"
    subprocess.run([*GIT, "init", "-q", str(where)], check=True)
    for name, value in (("user.name", "T"), ("user.email", "t@example.org")):
        subprocess.run(["git", "-C", str(where), "config", name, value], check=True)
    (where / "a.txt").write_text("one\n")
    if plan.accounts is not None:
        account = plan.accounts[BOT.tenant]
        for path in (where, *where.rglob("*")):
            os.chown(path, account.uid, account.gid)
    return where


async def opened(plan: SandboxPlan, *command: str) -> AsyncIterator[Client]:
    logged: list[tuple[str, str]] = []
    clock = StepClock()
    upstream = StdioUpstream(
        command,
        cwd=None,
        environment={},
        limits=StdioLimits(),
        clock=clock,
        log=lambda name, line: logged.append((name, line)),
        sandbox=plan,
    )
    yield Client(upstream, clock, logged)
    await upstream.aclose()


async def tool(server: Client, name: str, **arguments: Any) -> str:
    answer = (await messages(await server.send("tools/call", {"name": name, "arguments": arguments})))[-1]
    assert "result" in answer, (answer, server.logged)
    assert not answer["result"].get("isError"), answer
    return json.dumps(answer["result"]["content"])


async def test_git_commits_into_the_repository_that_is_writable(plan: SandboxPlan, repository: Path) -> None:
    plan = msgspec.structs.replace(plan, writable=(repository,))
    async for server in opened(plan, "mcp-server-git", "--repository", str(repository)):
        await tool(server, "git_add", repo_path=str(repository), files=["a.txt"])
        await tool(server, "git_commit", repo_path=str(repository), message="From the sandbox")
        assert "From the sandbox" in await tool(server, "git_log", repo_path=str(repository))
    log = subprocess.run(  # noqa: ASYNC221 - the server has ended
        ["git", "-c", f"safe.directory={repository}", "-C", str(repository), "log", "--format=%s"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert log.stdout == "From the sandbox\n"


async def test_git_cannot_commit_into_one_that_is_only_readable(plan: SandboxPlan, repository: Path) -> None:
    readable = (*plan.readable, repository)
    plan = msgspec.structs.replace(plan, readable=readable)
    async for server in opened(plan, "mcp-server-git", "--repository", str(repository)):
        assert "a.txt" in await tool(server, "git_status", repo_path=str(repository))
        arguments = {"repo_path": str(repository), "files": ["a.txt"]}
        answer = await messages(await server.send("tools/call", {"name": "git_add", "arguments": arguments}))
        assert "Read-only file system" in json.dumps(answer[-1])


async def test_the_reference_server_on_node_runs_within_the_default_limits(plan: SandboxPlan) -> None:
    command = reference_command()
    readable = (*plan.readable, Path(command[0]).parent, NODE_PEERS)
    plan = msgspec.structs.replace(plan, readable=readable)
    async for server in opened(plan, *command):
        assert "hello" in await tool(server, "echo", message="hello")
