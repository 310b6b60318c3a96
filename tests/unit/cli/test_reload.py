"""`twogate reload` and SIGHUP against a real `twogate serve`: what is taken, what is refused, and what is told.

Under load: `tests/crash/test_reload.py`. Who may not: `tests/attacks/test_reload.py`.
"""

from __future__ import annotations

import json
import os
import signal
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from harness.stack import free_port, tool_call
from processlab import PATIENCE, Gateway, cli, cli_json, here, here_json, init, request_headers, serving, until
from twogate.adapters.serving import Status, find_serving
from twogate.cli.main import app
from twogate.cli.output import CommandError
from twogate.cli.reload import request_reload

TINY = Path(__file__).parents[2] / "stdio_servers" / "tiny.py"


def settings() -> dict[str, Any]:
    return {
        "servers": {"tiny": {"command": [sys.executable, "-I", str(TINY)]}},
        "tools": {"tiny.echo": {"class": "read"}},
        "tasks": {"report": {"tools": ["read"]}},
        "tenants": {"acme": {"servers": ["tiny"]}},
        "agents": {
            "acme/worker": {
                "role": "reader", "tasks": ["report"], "default_task": "report",
                "bindings": [{"issuer": "embedded", "client_id": "acme.worker"}],
            }
        },
    }  # fmt: skip


@dataclass
class World:
    """A running gateway and the settings it was started with."""

    gateway: Gateway
    first: dict[str, Any]

    @property
    def state(self) -> Path:
        return self.gateway.directory / "state"

    @property
    def status(self) -> Status:
        status = find_serving(self.state)
        assert status is not None
        return status

    def change(self, **settings: Any) -> None:
        """Write the first settings with these changes."""
        self.gateway.config.write_text(json.dumps({**self.first, **settings}))

    def hang_up(self) -> Status:
        """Send SIGHUP and wait for the end of an attempt that began after it."""
        begun = self.status.begun
        os.kill(self.gateway.pid, signal.SIGHUP)

        def ended() -> bool:
            last = self.status.last
            return last is not None and last.number > begun

        until(ended, "the signal was not answered")
        return self.status

    def refused(self) -> dict[str, Any]:
        """What `twogate reload --json` prints when it fails."""
        done = CliRunner().invoke(app, ["reload", "--config", str(self.gateway.config), "--json"])
        assert done.exit_code == 1, done.output
        error: dict[str, Any] = json.loads(done.stdout)["error"]
        return error

    def recorded(self, kind: str) -> dict[str, Any]:
        """The last audit event of a kind."""
        return max((event for event in self.gateway.events() if event["kind"] == kind), key=lambda event: event["at"])

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in map(json.loads, list(self.gateway.log)) if line["event"] == event]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("twogate")
    init(directory, settings(), port=free_port())
    with serving(directory) as gateway:
        yield World(gateway, json.loads(gateway.config.read_text()))


@pytest.fixture
def world(served: World) -> World:
    """The gateway, serving its first settings."""
    served.change()
    assert served.hang_up().generation == cli_check(served.gateway.config)["generation"]
    return served


@pytest.fixture(scope="module")
def client(served: World) -> dict[str, Any]:
    """The client of the agent that the first settings declare."""
    served.change()
    added: dict[str, Any] = here_json(
        "agent", "add", "acme/worker", "--auth", "client_secret", "--config", served.gateway.config
    )
    return added


def cli_check(config: Path) -> dict[str, Any]:
    checked: dict[str, Any] = here_json("check", "--config", config)
    return checked


# --- what is taken


def test_a_reload_takes_the_file_as_it_is_now_and_says_so(world: World) -> None:
    before = world.status.generation
    world.change(scopes={"reports": ["read"]})
    done = cli_json("reload", "--config", world.gateway.config)
    assert done == {
        "pid": world.gateway.pid, "before": before, "generation": cli_check(world.gateway.config)["generation"],
    }  # fmt: skip
    assert world.status.generation == done["generation"] != before
    url = f"{world.gateway.url}/.well-known/oauth-authorization-server"
    metadata = httpx2.get(url, verify=world.gateway.trust(), trust_env=False).json()
    assert metadata["scopes_supported"] == ["reports"]
    assert world.recorded("configuration.reloaded")["detail"] == f"{before} -> {done['generation']}"
    (said,) = [line for line in world.logged("reloaded") if line["generation"] == done["generation"]]
    assert said["before"] == before


def test_for_people_it_says_what_changed_or_that_nothing_did(world: World) -> None:
    world.change(tasks={"report": {"tools": ["read", "search"]}})
    first, second = (here("reload", "-c", world.gateway.config) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0)
    assert f"serves generation {world.status.generation} now" in first.stdout
    assert "its settings are the same" in second.stdout


def test_agents_of_the_file_come_and_go(world: World, client: dict[str, Any]) -> None:
    token = world.gateway.token(client, "tiny")
    assert world.gateway.call(token, "tiny", tool_call("echo", {"x": 1})).status_code == 200
    world.change(agents={})
    assert world.hang_up().last is not None
    refused = world.gateway.call(token, "tiny", tool_call("echo", {"x": 1}))
    assert refused.status_code == 401
    assert world.recorded("authentication.refused")["reason"] == "agent_unbound"
    world.change()
    world.hang_up()
    assert world.gateway.call(token, "tiny", tool_call("echo", {"x": 1})).status_code == 200


def test_a_file_behind_a_link_is_followed_to_where_it_leads_now(tmp_path: Path) -> None:
    init(tmp_path, settings(), port=free_port(), tls=False)
    config = tmp_path / "twogate.yaml"
    config.rename(tmp_path / "first.yaml")
    config.symlink_to("first.yaml")
    with serving(tmp_path) as gateway:
        world = World(gateway, json.loads(config.read_text()))
        (tmp_path / "second.yaml").write_text(json.dumps({**world.first, "scopes": {"reports": ["read"]}}))
        (tmp_path / "link").symlink_to("second.yaml")
        (tmp_path / "link").replace(config)
        assert (
            here_json("reload", "--config", config)["generation"] == cli_check(tmp_path / "second.yaml")["generation"]
        )


# --- what is refused


def test_an_invalid_file_is_reported_as_by_check_and_nobody_is_asked(world: World) -> None:
    before = world.status
    world.change(tasks={"report": {"tools": ["rwad"]}}, publc_url="x")
    config = world.gateway.config
    reload, check = (here(command, "--config", config) for command in ("reload", "check"))
    assert (reload.returncode, reload.stdout, reload.stderr) == (1, "", check.stderr)
    assert f"{config}:1: tasks.report.tools" in reload.stderr
    assert world.refused() == json.loads(here("check", "--json", "--config", config).stdout)["error"]
    assert world.status == before


def test_a_signal_with_an_invalid_file_changes_nothing_and_is_logged_with_line_and_key(world: World) -> None:
    before = world.status.generation
    world.gateway.config.write_text("public_url: https://localhost\nlisten: hunter2-in-the-wrong-place\n")
    status = world.hang_up()
    assert status.generation == before
    assert status.last is not None
    assert (status.last.code, status.last.generation) == ("configuration_invalid", before)
    assert (2, "listen") in [(problem.line, problem.key) for problem in status.last.problems]
    logged = world.logged("reload_refused")[-1]
    assert (2, "listen") in [(problem["line"], problem["key"]) for problem in logged["problems"]]
    assert f"{world.gateway.config}:2: listen: " in logged["message"]
    event = world.recorded("configuration.refused")
    assert event["reason"] == "configuration_invalid"
    assert "line 2 listen" in event["detail"]
    # Whatever was put into the file by mistake is not on the trail for ever.
    assert "hunter2" not in json.dumps(event)


def test_a_file_cut_off_while_it_is_written_changes_nothing(world: World) -> None:
    before, text = world.status.generation, json.dumps(world.first, indent=1)
    for cut in (0, 1, len(text) // 2, len(text) - 1):
        world.gateway.config.write_text(text[:cut])
        status = world.hang_up()
        assert status.last is not None
        assert (status.last.code, status.generation) == ("configuration_invalid", before)
    world.gateway.config.unlink()
    status = world.hang_up()
    assert status.last is not None
    assert "no such file" in status.last.message


def test_a_pipe_in_the_place_of_the_file_is_not_read(world: World) -> None:
    world.gateway.config.unlink()
    os.mkfifo(world.gateway.config)
    try:
        status = world.hang_up()
        assert status.last is not None
        assert (status.last.code, status.last.problems[0].message) == ("configuration_invalid", "is not a file")
    finally:
        world.gateway.config.unlink()


def test_what_needs_a_restart_refuses_the_reload_and_all_that_came_with_it(
    world: World, client: dict[str, Any]
) -> None:
    before, token = world.status.generation, world.gateway.token(client, "tiny")
    world.change(listen=f"127.0.0.1:{free_port()}", limits={"connections": 7}, agents={})
    error = world.refused()
    assert error["code"] == "restart_needed"
    assert [(problem["key"], problem["message"]) for problem in error["problems"]] == [
        (key, "cannot change while serving; restart to change it") for key in ("listen", "limits.connections")
    ]
    assert (error["generation"], world.status.generation) == (before, before)
    people = here("reload", "--config", world.gateway.config)
    assert f"{world.gateway.config}: listen: cannot change while serving" in people.stderr
    # The agent that the refused file left out is still one.
    assert world.gateway.call(token, "tiny", tool_call("echo", {"x": 1})).status_code == 200


def test_an_agent_that_the_store_has_too_refuses_the_reload(world: World) -> None:
    here_json("agent", "add", "acme/twice", "--role", "reader", "--task", "report", "--config", world.gateway.config)
    agents = {**world.first["agents"], "acme/twice": {**world.first["agents"]["acme/worker"], "bindings": [
        {"issuer": "embedded", "client_id": "twice"}]}}  # fmt: skip
    world.change(agents=agents)
    error = world.refused()
    assert error["code"] == "request_malformed"
    assert "agent acme/twice is declared in the configuration and was added" in error["message"]
    assert world.recorded("configuration.refused")["reason"] == "request_malformed"


# --- the certificate


def leaf(gateway: Gateway) -> str:
    """The certificate that a new connection gets."""
    return ssl.get_server_certificate(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=PATIENCE)


@pytest.fixture
def certificate(world: World) -> Iterator[Path]:
    """The directory of the certificate and key in use; what a test does to them is undone."""
    directory = world.gateway.directory
    kept = {name: (directory / name).read_bytes() for name in ("server.pem", "server.key")}
    yield directory
    for name, content in kept.items():
        (directory / name).write_bytes(content)
    world.change()
    world.hang_up()


def test_certificate_and_key_are_read_anew_and_open_connections_go_on(
    world: World, certificate: Path, tmp_path: Path
) -> None:
    here_json("init", tmp_path, "--public-url", world.gateway.url)  # another authority
    first, old = leaf(world.gateway), ssl.create_default_context(cafile=str(certificate / "ca.pem"))
    ready, port = f"{world.gateway.url}/readyz", int(world.gateway.url.rpartition(":")[2])
    with closing(HTTPSConnection("localhost", port, context=old, timeout=PATIENCE)) as connection:
        assert get(connection, "/readyz") == 200
        kept = connection.sock
        for name in ("server.pem", "server.key"):
            (certificate / name).write_bytes((tmp_path / name).read_bytes())
        assert here_json("reload", "-c", world.gateway.config)["generation"] == world.status.generation
        assert leaf(world.gateway) != first
        new = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        assert httpx2.get(ready, verify=new, trust_env=False).status_code == 200
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(ready, verify=old, trust_env=False)
        assert (get(connection, "/readyz"), connection.sock) == (200, kept)


def get(connection: HTTPSConnection, path: str) -> int:
    """The status of one GET, its answer read to the end."""
    connection.request("GET", path)
    with connection.getresponse() as response:
        response.read()
        return response.status


@pytest.mark.parametrize(
    ("name", "content"),
    [("server.key", None), ("server.pem", b"-----BEGIN CERTIFICATE-----\n"), ("server.pem", b"")],
)
def test_a_certificate_and_a_key_that_do_not_fit_refuse_the_reload(
    world: World, certificate: Path, tmp_path: Path, name: str, content: bytes | None
) -> None:
    here_json("init", tmp_path, "--public-url", world.gateway.url)
    before, served = world.status.generation, leaf(world.gateway)
    (certificate / name).write_bytes((tmp_path / name).read_bytes() if content is None else content)
    world.change(scopes={"reports": ["read"]})
    error = world.refused()
    assert (error["code"], error["generation"]) == ("tls", before)
    assert "are not a PEM certificate chain and its private key" in error["message"]
    assert leaf(world.gateway) == served


# --- who is asked, and what if it does not answer


def test_without_a_process_there_is_nothing_to_reload(tmp_path: Path) -> None:
    init(tmp_path, settings(), port=free_port(), tls=False)
    config = tmp_path / "twogate.yaml"

    def refused() -> str:
        done = here("reload", "--json", "--config", config)
        assert done.returncode == 1
        code: str = json.loads(done.stdout)["error"]["code"]
        return code

    assert refused() == "not_serving"
    gateway = Gateway(tmp_path)
    try:
        gateway.start()
        gateway.kill()
        # What it left says who it was; nobody holds the lock any more, so nobody gets a signal.
        assert json.loads((tmp_path / "state" / "serve.json").read_bytes())["pid"] == gateway.pid
        assert refused() == "not_serving"
        gateway.start()
        assert here_json("reload", "--config", config)["pid"] == gateway.pid
        assert gateway.stop() == 0
        assert not (tmp_path / "state" / "serve.json").exists()
        assert refused() == "not_serving"
    finally:
        gateway.end()


def test_a_process_that_serves_another_file_is_not_signalled(world: World) -> None:
    other = world.gateway.directory / "other.yaml"
    other.write_text(json.dumps(world.first))
    begun = world.status.begun
    done = here("reload", "--config", other)
    assert done.returncode == 1
    assert f"serves {world.gateway.config}, not {other}" in done.stderr
    assert world.status.begun == begun


def test_a_second_process_over_the_same_state_is_refused(world: World) -> None:
    other = world.gateway.directory / "second.yaml"
    port = free_port()
    other.write_text(json.dumps({**world.first, "listen": f"127.0.0.1:{port}"}))
    second = cli("serve", "--config", other)
    assert (second.returncode, second.stdout) == (1, "")
    assert f"process {world.gateway.pid} serves over {world.state} already" in second.stderr
    assert world.status.pid == world.gateway.pid
    assert here_json("reload", "--config", world.gateway.config)["pid"] == world.gateway.pid


def test_a_process_that_does_not_answer_in_time_is_an_error_and_the_next_answer_is_not_the_late_one(
    world: World,
) -> None:
    begun = world.status.begun
    os.kill(world.gateway.pid, signal.SIGSTOP)
    try:
        with pytest.raises(CommandError) as stopped:
            request_reload(world.state, world.gateway.config, seconds=0.2)
        assert stopped.value.code == "timeout"
    finally:
        os.kill(world.gateway.pid, signal.SIGCONT)
    until(lambda: world.status.begun > begun, "the signal was lost")
    _, outcome = request_reload(world.state, world.gateway.config)
    assert (outcome.code, outcome.number > begun) == ("", True)


def test_a_process_that_ends_instead_of_answering_is_an_error(tmp_path: Path) -> None:
    init(tmp_path, settings(), port=free_port(), tls=False)
    gateway = Gateway(tmp_path)
    raised: list[CommandError] = []

    def ask() -> None:
        try:
            request_reload(tmp_path / "state", gateway.config)
        except CommandError as error:
            raised.append(error)

    try:
        gateway.start()
        os.kill(gateway.pid, signal.SIGSTOP)
        pending = Path(f"/proc/{gateway.pid}/status")
        # Of signals that wait together the lowest is taken first, so SIGHUP must not come before the process stands.
        until(lambda: "\nState:\tT" in pending.read_text(), "it was not stopped")
        asking = threading.Thread(target=ask)
        asking.start()
        # Bit 0 of the pending signals is SIGHUP.
        until(lambda: any(int(line.split()[1], 16) & 1 for line in pending.read_text().splitlines()
                          if line.startswith(("SigPnd", "ShdPnd"))), "it was not signalled")  # fmt: skip
        gateway.kill()
        asking.join(PATIENCE)
    finally:
        gateway.end()
    assert [error.code for error in raised] == ["ended"]


def test_reloads_at_the_same_time_are_all_answered(world: World) -> None:
    generations: list[str] = []

    def ask() -> None:
        generations.append(request_reload(world.state, world.gateway.config)[1].generation)

    world.change(scopes={"reports": ["read"]})
    asking = [threading.Thread(target=ask) for _ in range(8)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join(PATIENCE)
    assert generations == [cli_check(world.gateway.config)["generation"]] * 8


def test_the_token_in_a_clients_hands_survives_a_reload(world: World, client: dict[str, Any]) -> None:
    token = world.gateway.token(client, "tiny")
    with httpx2.Client(verify=world.gateway.trust(), trust_env=False, timeout=PATIENCE) as http:
        for _ in range(3):
            answer = http.post(
                f"{world.gateway.url}/mcp/tiny", json=tool_call("echo", {"x": 1}), headers=request_headers(token)
            )
            assert answer.status_code == 200
            world.hang_up()
