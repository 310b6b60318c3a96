"""Two tenants of one gateway that share a hostile stdio server: a real `twogate serve`, under root."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.stack import free_port, tool_call
from processlab import Gateway, here_json, init, serving
from stdio_servers.harness import HERE
from twogate.config import ConfigError, load_settings
from twogate.sandboxes import check_sandboxes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a server another user")

USERS = {"acme": "nobody", "globex": "daemon"}
TRICKS = ("who", "look_around", "uncover", "write", "listing")
WORKER = ("--role", "reader", "--task", "report", "--default-task", "report", "--auth", "client_secret")


def made(directory: Path, repository: Path) -> None:
    """A configuration that this system can serve."""
    server = {
        "command": [sys.executable, "-I", "-B", str(HERE / "intruder.py")],
        "sandbox": {"users": USERS, "readable": [str(HERE)], "writable": [str(repository)]},
    }
    settings = {
        "servers": {"intruder": server},
        "tools": {f"intruder.{name}": {"class": "read"} for name in TRICKS},
        "tasks": {"report": {"tools": ["read"]}},
        "tenants": {tenant: {"servers": ["intruder"]} for tenant in USERS},
    }
    init(directory, settings, port=free_port(), tls=False)
    config = directory / "twogate.yaml"
    try:
        check_sandboxes(config, load_settings(config))
    except ConfigError as error:
        if "cannot be built here" not in str(error) and "needs Linux" not in str(error):
            raise
        pytest.skip(f"THIS SYSTEM HAS NO SANDBOX FOR STDIO SERVERS: {error}")


class Caller:
    """The agent of one tenant, and what its server process says."""

    def __init__(self, gateway: Gateway, tenant: str) -> None:
        added = here_json("agent", "add", f"{tenant}/worker", *WORKER, "--config", gateway.config)
        self._gateway = gateway
        self._token = gateway.token(added, "intruder")

    def __call__(self, name: str, **arguments: Any) -> Any:
        answer = self._gateway.call(self._token, "intruder", tool_call(name, arguments))
        assert answer.status_code == 200, answer.text
        return answer.json()["result"]["done"]


def test_each_tenants_server_runs_as_its_account_and_sees_nothing_else(tmp_path: Path) -> None:
    directory, repository = tmp_path / "twogate", tmp_path / "repository"
    repository.mkdir()
    made(directory, repository)
    with serving(directory) as gateway:
        callers = {tenant: Caller(gateway, tenant) for tenant in USERS}
        secrets = [str(path.resolve()) for path in directory.rglob("*") if path.is_file()]
        assert {"twogate.db", "twogate.yaml"} <= {Path(path).name for path in secrets}
        for tenant, call in callers.items():
            assert call("who")["uid"] == [pwd.getpwnam(USERS[tenant]).pw_uid] * 3
            assert call("write", paths=[f"/tmp/of-{tenant}"]) == {f"/tmp/of-{tenant}": "ok"}
            # A directory of theirs that the accounts may not write to stays so: the sandbox gives no rights.
            assert call("write", paths=[str(repository / "x")]) == {str(repository / "x"): "PermissionError"}
        for tenant, call in callers.items():
            own = [name for name in call("listing", path="/tmp") if name.startswith("of-")]
            assert own == [f"of-{tenant}"]
            assert len(call("look_around")) == 1
            found = call("uncover", paths=secrets)
            assert {found[path] for path in secrets} <= {"(FileNotFoundError)", "(PermissionError)"}
        gateway.verify_audit()
