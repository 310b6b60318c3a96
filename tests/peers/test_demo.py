"""`twogate demo`: the main job end to end, and the line that scripts start from."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import httpx2

from peers.peers import MCP_SERVER_SQLITE, require

DEMO = [sys.executable, "-m", "twogate.cli.main", "demo", "--sqlite-server"]


def test_every_step_of_the_demo_goes_as_it_must() -> None:
    done = subprocess.run([*DEMO, require(MCP_SERVER_SQLITE), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] is True
    assert document["audit"]["ok"] is True
    decisions = [(step["gate"], step["decision"], step["why"].split(" ")[0]) for step in document["steps"]]
    assert [reason for _, decision, reason in decisions if decision == "refuse"] == [
        "credential_missing", "task_not_permitted", "operation_token_required", "audience_mismatch", "agent_disabled",
    ]  # fmt: skip
    assert all(step["expected"] for step in document["steps"])


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
            assert httpx2.get(f"{line['issuer']}/readyz", verify=tls, trust_env=False).status_code == 200
            assert httpx2.post(line["servers"]["git"], verify=tls, trust_env=False).status_code == 401
            assert Path(line["audit"]).is_dir()
        finally:
            demo.send_signal(signal.SIGTERM)
            code = demo.wait(30)
    assert code == 0
    assert not Path(line["directory"]).exists()
