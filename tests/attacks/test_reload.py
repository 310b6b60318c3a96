"""Who may not reload, whom a reload must never hit, and what it must not give away.

The files that say which process gets the signal are believed only if they are this user's own and somebody holds the
lock; nothing on the network reloads; and no reload widens a session that is open.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream
from processlab import PATIENCE, here_json
from twogate.adapters.serving import LOCK, STATUS, Serving, ServingError, Status
from twogate.cli.output import CommandError
from twogate.cli.reload import request_reload

STRANGER = 65534


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process that SIGHUP would end."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        yield process
        # Had it got the signal, it would not end in order.
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait(PATIENCE)


@pytest.fixture
def state(tmp_path: Path, victim: subprocess.Popen[bytes]) -> Iterator[Path]:
    """A state directory over which a process serves, with a status that names the victim."""
    (tmp_path / "twogate.yaml").touch()
    held = Serving(tmp_path / "state")
    held.publish(Status(victim.pid, 1, "abc", str(tmp_path / "twogate.yaml")))
    yield tmp_path / "state"
    held.close()


def test_a_planted_status_signals_nobody_while_nobody_serves(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    Serving(tmp_path).close()
    planted = Status(victim.pid, 1, "abc", str(tmp_path / "twogate.yaml"))
    (tmp_path / STATUS).touch(mode=0o600)
    (tmp_path / STATUS).write_text(json.dumps({name: getattr(planted, name) for name in planted.__struct_fields__}))
    with pytest.raises(CommandError) as refused:
        request_reload(tmp_path, tmp_path / "twogate.yaml")
    assert refused.value.code == "not_serving"


def writable_by_a_group(path: Path) -> None:
    path.chmod(0o660)


def readable_by_all(path: Path) -> None:
    path.chmod(0o644)


def a_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def a_strangers(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, STRANGER, STRANGER)


@pytest.mark.parametrize("file", [LOCK, STATUS])
@pytest.mark.parametrize("spoil", [writable_by_a_group, readable_by_all, a_link, a_pipe, a_strangers])
def test_files_that_others_could_have_written_signal_nobody(
    state: Path, file: str, spoil: Callable[[Path], None]
) -> None:
    spoil(state / file)
    with pytest.raises(ServingError, match=r"symbolic link|not a file of this user alone"):
        request_reload(state, state.parent / "twogate.yaml")


def test_another_user_cannot_reload(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    here_json("init", tmp_path / "twogate", "--public-url", f"http://localhost:{free_port()}")
    held = Serving(tmp_path / "twogate" / "state")
    held.publish(Status(os.getpid(), 1, "abc", str(tmp_path / "twogate" / "twogate.yaml")))
    script = (
        "import os, sys; from twogate.cli.main import run\n"
        "from pathlib import Path; from twogate.adapters.serving import find_serving\n"
        f"os.setgid({STRANGER}); os.setuid({STRANGER})\n"
        "try: find_serving(Path(sys.argv[1]))\n"
        "except PermissionError: print('refused')\n"
    )
    for directory in (tmp_path.parent.parent, tmp_path.parent, tmp_path, tmp_path / "twogate"):
        directory.chmod(directory.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "twogate" / "state")],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    held.close()
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


async def test_nothing_on_the_network_reloads(stack: Stack, issuer: TestIssuer) -> None:
    before = stack.app.current
    token = issuer.token(stack.resource())
    for path in ("/reload", "/-/reload", "/admin/reload", "/mcp/reload", "/config", "/readyz?reload=1"):
        for method in ("POST", "PUT", "PATCH"):
            answer = await stack.http.request(
                method, stack.url + path, headers={"authorization": f"Bearer {token}"}, json={"reload": True}
            )
            assert answer.status_code in (400, 404, 405)
    assert stack.app.current is before
    assert not [event for event in stack.events() if event["kind"].startswith("configuration.")]


async def test_a_reload_widens_no_session_that_is_open(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings: dict[str, Any] = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    async with running(tmp_path, settings) as stack:
        token = issuer.token(stack.resource())
        assert (await stack.call(token, "look")).status_code == 200
        settings["tasks"]["report"]["tools"] = ["files.look", "files.find"]
        stack.adopt(settings)
        refused = await stack.call(token, "find")
        assert (refused.status_code, stack.reasons()) == (403, ["task_not_permitted"])
        assert upstream.calls == ["look"]


async def test_a_reload_narrows_open_sessions_and_cached_tokens_at_once(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream
) -> None:
    settings: dict[str, Any] = settings_for(tmp_path, free_port(), {"files": {"url": upstream.url}}, issuer)
    async with running(tmp_path, settings) as stack:
        token = issuer.token(stack.resource())
        assert (await stack.call(token, "look")).status_code == 200
        narrower: dict[str, dict[str, Any]] = {
            "task_not_permitted": {"tasks": {**settings["tasks"], "report": {"tools": ["files.find"]}}},
            "target_unclassified": {
                "tools": {"files.find": {"class": "search"}},
                "tasks": {task: {"tools": ["files.find"]} for task in settings["tasks"]},
            },
            "role_not_permitted": {"roles": {"executor": {"allow": ["search"]}, "reader": {"allow": ["search"]}}},
            "tenant_server_refused": {"tenants": {"acme": {}}},
            "issuer_unknown": {"issuers": [{**settings["issuers"][0], "issuer": "https://login.example.com"}]},
            "token_algorithm_refused": {"issuers": [{**settings["issuers"][0], "algorithms": ["EdDSA"]}]},
            "token_lifetime_excessive": {"issuers": [{**settings["issuers"][0], "max_lifetime": "1m"}]},
        }
        for reason, change in narrower.items():
            changed = {**settings, **change}
            if "issuers" in change:
                changed["agents"] = json.loads(
                    json.dumps(settings["agents"]).replace(issuer.url, change["issuers"][0]["issuer"])
                )
            stack.adopt(changed)
            assert (await stack.call(token, "look")).status_code in (401, 403)
            assert stack.reasons()[-1] == reason
            stack.adopt(settings)
            assert (await stack.call(token, "look")).status_code == 200
        assert upstream.calls == ["look"] * (len(narrower) + 1)
