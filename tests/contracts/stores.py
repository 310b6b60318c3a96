"""The stores that the contract suites run on, and the samples they share."""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.database import open_migrated
from twogate.adapters.clock import SystemClock
from twogate.adapters.rng import SystemRng
from twogate.core.principal import Agent, AgentId, Binding, Method, PrincipalKey, UserId
from twogate.core.session import Session
from twogate.flows.authserver.clients import Client, ClientAuth, ClientStore, ReplayStore, SecretDigest
from twogate.flows.authserver.device import DeviceStore
from twogate.flows.authserver.revocations import RevocationStore
from twogate.flows.registry import RegistryStore, Revision
from twogate.stores.sql.clients import SqlClientStore
from twogate.stores.sql.device_codes import SqlDeviceStore
from twogate.stores.sql.opening import open_revision
from twogate.stores.sql.pins import SqlPinStore
from twogate.stores.sql.registrations import SqlRegistrationStore
from twogate.stores.sql.registry import SqlRegistryStore
from twogate.stores.sql.replay import SqlReplayStore
from twogate.stores.sql.revocations import SqlRevocationStore
from twogate.stores.sql.sessions import SqlSessionStore

SQLITE = "sqlite"
POSTGRESQL = "postgresql"
LEASED = "postgresql with a lease"
KINDS = [SQLITE, POSTGRESQL, LEASED]
VALKEY = "valkey"
"""Of what it can hold, which is not everything."""

NOW = 1_800_000_000
ALICE = UserId("https://idp.example", "alice")
AGENT = Agent(AgentId("acme", "builder"), "developer", ("review", "release"), "review")
BINDING = Binding(Method.JWT, "https://as.example", "client-1")
PRINCIPAL = PrincipalKey("acme", "https://as.example", "builder", None)
TARGETS = frozenset({"git.git_log", "git.git_show"})
CLIENT = Client("client-1", "acme", AGENT.id, ClientAuth.CLIENT_SECRET, (SecretDigest("ab" * 32),), created_at=NOW)


@dataclass
class Stores:
    """Every store of one database, through its port."""

    url: str
    sessions: SqlSessionStore
    registry: RegistryStore
    clients: ClientStore
    replay: ReplayStore
    revocations: RevocationStore
    revision: Revision
    devices: DeviceStore
    registrations: SqlRegistrationStore
    pins: SqlPinStore

    async def seen(self) -> int:
        """The revision as a caller of the port learns it."""
        number = self.revision.current()
        return await self.revision.read() if number is None else number


@asynccontextmanager
async def open_stores(url: str, *, leased: bool = False) -> AsyncIterator[Stores]:
    """The stores of a database, migrated; closed at the end. `leased`: as a replica that serves has them."""
    engine = await open_migrated(url)
    try:
        revision = open_revision(engine, url, SystemClock(), SystemRng())
        if leased:
            revision.start()
            await until_leased(revision)
        try:
            yield Stores(
                url,
                SqlSessionStore(engine),
                SqlRegistryStore(engine),
                SqlClientStore(engine),
                SqlReplayStore(engine),
                SqlRevocationStore(engine),
                revision,
                SqlDeviceStore(engine),
                SqlRegistrationStore(engine),
                SqlPinStore(engine),
            )
        finally:
            await revision.aclose()
    finally:
        await engine.dispose()


async def until_leased(revision: Revision) -> None:
    """Wait until the revision is known without asking."""
    async with asyncio.timeout(30):
        while revision.current() is None:
            await asyncio.sleep(0.005)


def session(
    session_id: str,
    task: str = "review",
    principal: PrincipalKey = PRINCIPAL,
    *,
    targets: frozenset[str] = TARGETS,
    start: int = NOW,
    lifetime: int = 900,
) -> Session:
    """A session as a flow would propose it."""
    return Session(session_id, principal, task, targets, start, start + lifetime)


async def race(url: str, work: str, processes: int = 2, each: int = 25) -> list[object]:
    """What `each` tasks in each of several processes got from `work`, all let go at one moment."""
    results: list[object] = []
    async with AsyncExitStack() as stack, asyncio.timeout(60):
        running = [await _contender(stack, url, work, number, each) for number in range(processes)]
        for reader, _ in running:
            assert await reader.readline() == b"ready\n"
        for _, writer in running:
            writer.write(b"go\n")
        for reader, _ in running:
            results += json.loads(await reader.read())
    return results


async def _contender(stack: AsyncExitStack, *arguments: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The standard output and input of a new process."""
    reader, writer = await asyncio.open_unix_connection(_starter())
    stack.callback(writer.close)
    writer.write(json.dumps(arguments).encode() + b"\n")
    pid = int(await reader.readline())

    def end() -> None:
        if not reader.at_eof():  # it closes its output when it ends, and no sooner
            os.kill(pid, signal.SIGKILL)

    stack.callback(end)
    return reader, writer


@cache
def _starter() -> Path:
    """The socket of this test process's starter, which lives as long."""
    directory = Path(tempfile.mkdtemp(prefix="twogate-race-"))
    path = directory / "socket"
    command = [sys.executable, "-m", "contracts.starter", str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)

    def end() -> None:
        process.communicate(timeout=30)
        shutil.rmtree(directory)

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return path
