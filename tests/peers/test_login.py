"""`twogate login` against a real `twogate serve` over TLS, by a person at a browser; then its token is used."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.stack import tool_call
from peers.oauthworld import SAID, SCOPE, SERVER, TOOL, OAuthWorld, oauth_world
from peers.servers import everything_server
from processlab import COMMAND, PATIENCE

pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OAuthWorld]:
    with everything_server() as url, oauth_world(tmp_path_factory.mktemp("twogate"), url) as made:
        yield made


class Terminal:
    """A command line of somebody who has nothing but the address of the server and its CA."""

    def __init__(self, world: OAuthWorld, home: Path) -> None:
        self.world = world
        self.home = home
        self.environment = {"HOME": str(home), "PATH": os.environ["PATH"]}

    def command(self, *options: str) -> list[str]:
        where = (self.world.url, "--resource", f"/mcp/{SERVER}", "--ca", self.world.ca)
        return [str(COMMAND), "login", *where, *options]

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*options),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def log_in(self, choice: str, *options: str) -> tuple[int, str]:
        """Log in, with a person who does what the command says and presses this button; its exit code and output."""
        with subprocess.Popen(
            self.command("--client-id", "cli", "--scope", SCOPE, *options),
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stderr is not None
                told = re.fullmatch(r"Open (\S+) and enter the code (\S+)\n", process.stderr.readline())
                assert told is not None
                with self.world.person() as person:
                    person.let_in(told[1], told[2], choice)
                said, complained = process.communicate(timeout=PATIENCE)
            finally:
                if process.poll() is None:
                    process.kill()
            return process.returncode, said + complained


def test_a_person_lets_a_terminal_in_and_later_out_again(world: OAuthWorld, tmp_path: Path) -> None:
    terminal = Terminal(world, tmp_path)
    code, said = terminal.log_in("allow")
    assert (code, "Logged in at" in said) == (0, True), said
    (file,) = (tmp_path / ".local" / "state" / "twogate" / "logins").glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_bytes())["scope"] == SCOPE

    printed = terminal.run("--print-token")
    assert (printed.returncode, printed.stderr) == (0, "")
    token = printed.stdout.strip()
    call = tool_call(TOOL)
    call["params"]["_meta"] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    assert use(world, token, call) == (200, True)

    # As if its five minutes were over.
    tokens = json.loads(file.read_bytes())
    file.write_text(json.dumps({**tokens, "expires_at": 0}))
    again = terminal.run("--print-token").stdout.strip()
    assert again != token
    assert use(world, again, call) == (200, True)

    forgotten = terminal.run("--forget")
    assert (forgotten.returncode, forgotten.stdout) == (0, "Revoked and removed.\n")
    assert not file.exists()
    assert use(world, again, call)[0] == 401


def test_a_person_says_no(world: OAuthWorld, tmp_path: Path) -> None:
    code, said = Terminal(world, tmp_path).log_in("deny")
    assert (code, "the person said no" in said) == (1, True)
    assert list(tmp_path.rglob("*.json")) == []


def test_a_client_without_the_device_flow_is_told_what_to_do(world: OAuthWorld, tmp_path: Path) -> None:
    for client in ("native", "nobody"):
        done = Terminal(world, tmp_path).run("--client-id", client)
        assert (done.returncode, "twogate client add" in done.stderr) == (1, True), done


def test_a_server_with_another_authority_is_not_spoken_to(world: OAuthWorld, tmp_path: Path) -> None:
    terminal = Terminal(world, tmp_path)
    command = [part for part in terminal.command("--client-id", "cli") if part not in ("--ca", world.ca)]
    done = subprocess.run(
        command, env=terminal.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, "cannot be reached" in done.stderr) == (1, True), done


def use(world: OAuthWorld, token: str, call: dict[str, object]) -> tuple[int, bool]:
    """Call the tool; the status, and whether the server behind answered."""
    headers = {
        "authorization": f"Bearer {token}",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": TOOL,
    }
    with world.person() as person:
        answer = person.http.post(f"/mcp/{SERVER}", json=call, headers=headers)
    return answer.status_code, SAID in answer.text
