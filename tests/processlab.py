"""Real `twogate` processes for tests: started from the installed command, polled for readiness, ended by their pid."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
from typer.testing import CliRunner

from harness.database import place_database
from twogate.cli.main import app

COMMAND = Path(sys.executable).parent / "twogate"
PATIENCE = 30.0
"""Seconds that anything may take on a busy machine before a test gives up."""

Identity = tuple[int, int]
"""A process: its id and its start time, which tells it from a later one of the same id."""


def cli(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one `twogate` command to its end."""
    command = [str(COMMAND), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def cli_json(*arguments: str | Path) -> Any:
    """What a command that must succeed prints with `--json`."""
    done = cli(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same as `cli` in this process, which saves the start of another one."""
    command = [*map(str, arguments)]
    # In a thread, because the command runs an event loop and the test may be in one.
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(CliRunner().invoke, app, command).result()
    return subprocess.CompletedProcess(command, done.exit_code, done.stdout, done.stderr)


def here_json(*arguments: str | Path) -> Any:
    """What a command that must succeed prints with `--json`, in this process."""
    done = here(*arguments, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done
    return json.loads(done.stdout)


def until(check: Callable[[], bool], what: str, *, tick: Callable[[], object] | None = None) -> None:
    """Poll until `check` holds."""
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline, what
        if tick is not None:
            tick()
        time.sleep(0.02)


class Gateway:
    """One `twogate serve` process over the configuration of a directory.

    `launcher` is another way to start the command, for what no setting says.
    """

    def __init__(self, directory: Path, launcher: Sequence[str] = (str(COMMAND),), **environment: str) -> None:
        self.launcher = launcher
        self.environment = environment
        self.directory = directory
        self.config = directory / "twogate.yaml"
        self.url: str = json.loads(self.config.read_text())["public_url"]
        self.log: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int:
        """The running process."""
        assert self.process is not None
        return self.process.pid

    @property
    def audit(self) -> Path:
        """The directory of the audit trail."""
        return self.directory / "state" / "audit"

    def start(self) -> None:
        """Start it and return once it says that it is ready."""
        command = [*self.launcher, "serve", "--config", str(self.config)]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ | self.environment
        )
        ready = threading.Event()
        self._reader = threading.Thread(target=self._read_log, args=(self.process, ready), daemon=True)
        self._reader.start()
        assert ready.wait(PATIENCE), "twogate serve was not ready in time"
        assert self.process.poll() is None, "".join(self.log)

    def _read_log(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        # A pipe that is always read, so that neither a full pipe nor a file size limit can disturb the process.
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                self.log.append(line)
                if '"event": "ready"' in line:
                    ready.set()
        ready.set()

    def wait(self) -> int:
        """Wait for its end; the exit code (negative: the signal)."""
        assert self.process is not None
        assert self._reader is not None
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def stop(self) -> int:
        """Ask it to stop, as an operator does; the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it as a crash does."""
        os.kill(self.pid, signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def end(self) -> None:
        """For the end of a test: make sure that nothing is left running, however the test went."""
        process = self.process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)

    def trust(self) -> ssl.SSLContext | bool:
        """What an HTTP client of this gateway trusts: the CA that `twogate init` made."""
        authority = self.directory / "ca.pem"
        return ssl.create_default_context(cafile=str(authority)) if authority.exists() else False

    def token(self, client: Mapping[str, Any], server: str) -> str:
        """An access token for an agent registered with a client secret."""
        answer = httpx2.post(
            f"{self.url}/token",
            data={"grant_type": "client_credentials", "resource": f"{self.url}/mcp/{server}"},
            auth=(client["client_id"], client["client_secret"]),
            verify=self.trust(),
            trust_env=False,
            timeout=PATIENCE,
        )
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token

    def call(self, token: str, server: str, message: Mapping[str, Any]) -> httpx2.Response:
        """POST one message to a server's endpoint, as a 2025-11-25 client does."""
        return httpx2.post(
            f"{self.url}/mcp/{server}",
            json=message,
            headers=request_headers(token),
            verify=self.trust(),
            trust_env=False,
            timeout=PATIENCE,
        )

    def events(self) -> list[dict[str, Any]]:
        """The audit trail's complete lines so far."""
        return read_events(self.audit)

    def verify_audit(self) -> dict[str, Any]:
        """What `twogate audit verify` says, which must be that all is well."""
        report: dict[str, Any] = here_json("audit", "verify", "--config", self.config)
        assert report["ok"] is True
        return report


def read_events(directory: Path) -> list[dict[str, Any]]:
    """Every complete line of an audit trail, segment after segment; what a killed process left torn is left out."""
    events: list[dict[str, Any]] = []
    for path in sorted(directory.glob("*.jsonl")):
        *lines, _ = path.read_bytes().split(b"\n")
        events += [json.loads(line) for line in lines]
    return events


def request_headers(token: str) -> dict[str, str]:
    """What a 2025-11-25 client sends with each message."""
    return {
        "authorization": f"Bearer {token}",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-11-25",
    }


def init(directory: Path, settings: Mapping[str, Any], *, port: int, tls: bool = True) -> None:
    """Make certificates and state by `twogate init`, then write the configuration over its template."""
    url = f"{'https' if tls else 'http'}://localhost:{port}"
    here_json("init", directory, "--public-url", url)
    place_database(directory / "state" / "twogate.db")
    document: dict[str, Any] = {
        "public_url": url,
        "listen": f"127.0.0.1:{port}",
        "store": "sqlite:///./state/twogate.db",
        "state": "state",
        **settings,
    }
    if tls:
        document["tls"] = {"certificate": "server.pem", "key": "server.key"}
    (directory / "twogate.yaml").write_text(json.dumps(document))  # JSON is YAML


@contextmanager
def serving(directory: Path, made: Gateway | None = None) -> Iterator[Gateway]:
    """A gateway that runs until the block ends, which then must be by itself and in order."""
    gateway = made or Gateway(directory)
    try:
        gateway.start()
        yield gateway
        if gateway.process is not None and gateway.process.poll() is None:
            assert gateway.stop() == 0, "".join(gateway.log)
    finally:
        gateway.end()


def identity(pid: int) -> Identity | None:
    """The process with this id, unless there is none or it is only waiting to be collected."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] != b"Z":
            return pid, int(fields[19])
    return None


def descendants(pid: int) -> set[Identity]:
    """Every living process below this one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[Identity] = set()
    frontier = [pid]
    while frontier:
        below = parents.get(frontier.pop(), [])
        frontier += below
        found |= {process for child in below if (process := identity(child)) is not None}
    return found


def living(processes: set[Identity]) -> set[Identity]:
    """Those of the processes that still live."""
    return {process for process in processes if identity(process[0]) == process}
