"""`twogate serve` as a process: its start, its log, its end, and other commands beside it.

One gateway for the tests that only talk to it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from harness.stack import free_port, tool_call
from processlab import COMMAND, PATIENCE, Gateway, cli, here, here_json, init, request_headers, until
from twogate.cli.main import app

TINY = Path(__file__).parents[2] / "stdio_servers" / "tiny.py"
WORKER = ("--role", "reader", "--task", "report", "--default-task", "report", "--auth", "client_secret")


def settings() -> dict[str, Any]:
    return {
        "servers": {"tiny": {"command": [sys.executable, "-I", str(TINY)]}},
        "tools": {"tiny.echo": {"class": "read"}},
        "tasks": {"report": {"tools": ["read"]}},
        "tenants": {"acme": {"servers": ["tiny"]}},
    }


@dataclass
class World:
    """A running gateway, and agents that other processes add to it."""

    gateway: Gateway
    http: httpx2.Client

    def add(self, agent: str) -> dict[str, Any]:
        added: dict[str, Any] = here_json("agent", "add", agent, *WORKER, "--config", self.gateway.config)
        return added

    def call(self, token: str) -> tuple[int, str]:
        """Status and reason of one call; the reason is empty if it was answered."""
        answer = self.http.post(
            f"{self.gateway.url}/mcp/tiny", json=tool_call("echo", {"x": 1}), headers=request_headers(token)
        )
        body = answer.json()
        return answer.status_code, body["error"]["data"]["reason"] if "error" in body else ""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("twogate")
    init(directory, settings(), port=free_port(), tls=False)
    gateway = Gateway(directory)
    try:
        gateway.start()
        with httpx2.Client(trust_env=False, timeout=PATIENCE) as http:
            yield World(gateway, http)
    finally:
        gateway.end()


def test_an_agent_disabled_by_another_process_is_refused_at_its_next_request(world: World) -> None:
    added = world.add("acme/worker")
    token = world.gateway.token(added, "tiny")
    assert world.call(token) == (200, "")
    config = ("--config", world.gateway.config)
    (session,) = here_json("session", "list", *config)["sessions"]
    assert (session["agent"], session["task"], session["state"]) == ("acme/worker", "report", "live")
    assert here_json("agent", "disable", "acme/worker", *config)["changed"] is True
    # The very next one: same token, same connection, everything in memory.
    assert world.call(token) == (401, "invalid_token")
    assert "agent_disabled" in [event.get("reason") for event in world.gateway.events()]
    answer = world.http.post(
        f"{world.gateway.url}/token",
        data={"grant_type": "client_credentials", "resource": f"{world.gateway.url}/mcp/tiny"},
        auth=(added["client_id"], added["client_secret"]),
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_a_session_ended_by_another_process_is_over_at_the_next_request(world: World) -> None:
    token = world.gateway.token(world.add("acme/second"), "tiny")
    assert world.call(token) == (200, "")
    rows = here_json("session", "list", "--config", world.gateway.config)["sessions"]
    (session,) = (row["session"] for row in rows if row["agent"] == "acme/second")
    assert here("session", "end", "--config", world.gateway.config, "--", session).returncode == 0
    assert world.call(token) == (403, "session_ended")


def test_a_token_revoked_by_another_process_is_refused_at_its_next_request(world: World) -> None:
    added = world.add("acme/third")
    token, other = world.gateway.token(added, "tiny"), world.gateway.token(added, "tiny")
    assert [world.call(token), world.call(other)] == [(200, ""), (200, "")]
    command = [str(COMMAND), "token", "revoke", "--json", "--config", str(world.gateway.config)]
    done = subprocess.run(command, input=token, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, json.loads(done.stdout)["kind"]) == (0, "token")
    assert [world.call(token), world.call(other)] == [(401, "invalid_token"), (200, "")]
    answer = world.http.post(
        f"{world.gateway.url}/revoke", data={"token": other}, auth=(added["client_id"], added["client_secret"])
    )
    assert answer.status_code == 200
    assert world.call(other) == (401, "invalid_token")
    assert "token_revoked" in [event.get("reason") for event in world.gateway.events()]


def test_the_tail_follows_a_running_process(world: World) -> None:
    token = world.gateway.token(world.add("acme/followed"), "tiny")
    command = [str(COMMAND), "audit", "tail", "--follow", "-n", "0", "--json", "--config", str(world.gateway.config)]
    first: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        reader = threading.Thread(target=lambda lines: first.append(next(lines, "")), args=(tail.stdout,))
        reader.start()
        try:
            # Nothing shows until it follows; then the next call does.
            until(lambda: bool(first), "nothing was shown", tick=lambda: world.call(token))
        finally:
            tail.terminate()
            tail.wait(PATIENCE)
            reader.join(PATIENCE)
    assert json.loads(first[0])["kind"].startswith("call.")
    assert json.loads(first[0])["agent"] == "followed"


def test_its_log_is_json_lines_and_holds_no_credential(world: World) -> None:
    added = world.add("acme/fourth")
    token = world.gateway.token(added, "tiny")
    assert world.call(token) == (200, "")
    assert world.call(token + "x")[0] == 401
    lines = [json.loads(line) for line in world.gateway.log]
    assert lines[0]["event"] == "ready"
    assert lines[0]["public_url"] == world.gateway.url
    shown = "".join(world.gateway.log)
    assert added["client_secret"] not in shown
    assert token[:40] not in shown
    trail = b"".join(path.read_bytes() for path in world.gateway.audit.iterdir()).decode()
    assert added["client_secret"] not in trail
    assert token[:40] not in trail
    assert token.rpartition(".")[2] not in trail


def test_a_second_process_at_the_same_address_says_so_and_leaves_the_first_alone(world: World, tmp_path: Path) -> None:
    config = {**json.loads(world.gateway.config.read_text()), "store": f"sqlite:///{tmp_path}/twogate.db"}
    config["state"] = str(tmp_path)
    (tmp_path / "twogate.yaml").write_text(json.dumps(config))
    second = cli("serve", "--config", tmp_path / "twogate.yaml")
    assert (second.returncode, second.stdout) == (1, "")
    port = world.gateway.url.rpartition(":")[2]
    assert f"cannot bind 127.0.0.1:{port}" in second.stderr
    assert "Traceback" not in second.stderr
    assert world.http.get(f"{world.gateway.url}/readyz").status_code == 200


def test_sigint_ends_it_in_order_with_code_0(tmp_path: Path) -> None:
    init(tmp_path, settings(), port=free_port())
    gateway = Gateway(tmp_path)
    try:
        gateway.start()
        assert httpx2.get(f"{gateway.url}/healthz", verify=gateway.trust(), trust_env=False).status_code == 200
        os.kill(gateway.pid, signal.SIGINT)
        assert gateway.wait() == 0
    finally:
        gateway.end()
    assert gateway.events()[-1]["kind"] == "process.stopped"
    assert json.loads(gateway.log[-1])["event"] == "stopped"


@pytest.mark.parametrize("broken", ["configuration", "certificate", "key file", "audit", "store"])
def test_what_it_cannot_work_with_stops_the_start_with_one_message(
    tmp_path: Path, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It would redirect the log of this whole test process.
    monkeypatch.setattr("twogate.cli.serve.configure_logging", lambda: None)
    init(tmp_path, settings(), port=free_port())
    says = {
        "configuration": "state: must be text",
        "certificate": "server.pem",
        "key file": "signing-key.pem",
        "audit": "audit",
        "store": "chmod 600",
    }[broken]
    state = tmp_path / "state"
    match broken:
        case "configuration":
            config = json.loads((tmp_path / "twogate.yaml").read_text())
            (tmp_path / "twogate.yaml").write_text(json.dumps({**config, "state": 7}))
        case "certificate":
            (tmp_path / "server.pem").write_text("-----BEGIN CERTIFICATE-----\n")
        case "key file":
            (state / "keys").mkdir(mode=0o700)
            (state / "keys" / "signing-key.pem").touch(mode=0o644)
        case "audit":
            (state / "audit").touch()
        case _:
            (state / "twogate.db").chmod(0o644)
    done = CliRunner().invoke(app, ["serve", "--config", str(tmp_path / "twogate.yaml")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("twogate: ")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
