"""`twogate demo`: the main job end to end, with and without a browser, and the line that scripts start from."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from browser.chromium import find_chromium
from peers.peers import MCP_SERVER_SQLITE, require
from peers.person import Forms
from processlab import PATIENCE

# Each starts a dozen programs.
pytestmark = [pytest.mark.peer, pytest.mark.timeout(300)]

DEMO = [sys.executable, "-m", "twogate.cli.main", "demo", "--sqlite-server"]
REFUSED = ["credential_missing", "audience_mismatch", "task_not_permitted"]
WITHOUT_THE_TOKEN = [
    "operation_token_required",
    "resource_invalid",
    "operation_token_invalid",
    "operation_token_mismatch",
    "operation_token_used",
]


def play(*options: str) -> list[dict[str, Any]]:
    """The steps of a demo whose every step goes as it must."""
    command = [*DEMO, require(MCP_SERVER_SQLITE), "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        try:
            printed, problems = demo.communicate()
        finally:
            demo.terminate()  # a no-op once it has ended; else it ends what it started
    assert demo.returncode == 0, printed + problems
    document = json.loads(printed)
    assert document["ok"] is True
    assert document["audit"]["ok"] is True
    steps: list[dict[str, Any]] = document["steps"]
    assert all(step["expected"] for step in steps)
    return steps


def reasons(steps: list[dict[str, Any]]) -> list[str]:
    """Why calls were refused, by the audit trail."""
    words = [step["why"].split(" ")[0].rstrip(":") for step in steps if step["decision"] == "refuse"]
    assert all(words)
    return words


def decisions(steps: list[dict[str, Any]]) -> list[str]:
    """What was decided in the act in which a call waits for a person."""
    return [step["decision"] for step in steps if step["act"].startswith("Gate two: a person")]


def test_every_step_of_the_demo_goes_as_it_must() -> None:
    steps = play("--chromium", find_chromium())
    assert reasons(steps) == [*REFUSED, *WITHOUT_THE_TOKEN, "agent_disabled"]
    assert decisions(steps) == ["wait", "done", "approve", "allow", "allow", "wait", "verified"]


def test_without_a_browser_nobody_approves_and_the_call_is_denied() -> None:
    steps = play("--chromium", "")
    denied = ["approval_denied", "approval_denied"]
    assert reasons(steps) == [*REFUSED, *WITHOUT_THE_TOKEN, *denied, "agent_disabled"]
    assert decisions(steps) == ["wait", "skipped", "deny", "refuse", "refuse"]
    (skipped,) = (step["why"] for step in steps if step["decision"] == "skipped")
    assert "no Chromium" in skipped


def test_a_browser_that_is_no_program_is_wrong_use() -> None:
    command = [*DEMO, require(MCP_SERVER_SQLITE), "--chromium", "/nonexistent/chromium"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--chromium" in done.stderr


def test_the_kept_demo_prints_one_line_and_serves_until_sigterm() -> None:
    with subprocess.Popen(
        [*DEMO, require(MCP_SERVER_SQLITE), "--keep", "--json"], stdout=subprocess.PIPE, text=True
    ) as demo:
        try:
            assert demo.stdout is not None
            line = json.loads(demo.stdout.readline())
            assert line.keys() == {
                "directory", "config", "issuer", "mcp", "servers", "console", "ca", "admin", "agent", "audit",
            }  # fmt: skip
            assert line["agent"].keys() == {"client_id", "private_key_pem", "role", "task"}
            tls = ssl.create_default_context(cafile=line["ca"])
            assert (
                httpx2.get(f"{line['issuer']}/readyz", verify=tls, trust_env=False, timeout=PATIENCE).status_code == 200
            )
            assert httpx2.post(line["servers"]["git"], verify=tls, trust_env=False, timeout=PATIENCE).status_code == 401
            assert Path(line["audit"]).is_dir()
            assert_administers(line, tls)
        finally:
            demo.send_signal(signal.SIGTERM)
            code = demo.wait(30)
    assert code == 0
    assert not Path(line["directory"]).exists()


def assert_administers(line: dict[str, Any], tls: ssl.SSLContext) -> None:
    """The administrator logs in by the password, and sees every page of the console."""
    tenant, _, name = line["admin"]["user"].partition("/")
    with httpx2.Client(verify=tls, trust_env=False, follow_redirects=True, timeout=PATIENCE) as http:
        page = http.get(line["console"])
        (form,) = (form for form in Forms(page.text).forms if "password" in form.inputs)
        filled = {**form.fields, "tenant": tenant, "name": name, "password": line["admin"]["password"]}
        page = http.post(f"{line['issuer']}{form.action}", data=filled, headers={"Origin": line["issuer"]})
        assert str(page.request.url) == line["console"]
        assert name in page.text
        for path in ("approvals", "sessions", "agents", "tools", "matrix", "explain", "audit"):
            assert http.get(f"{line['console']}/{path}").status_code == 200, path
