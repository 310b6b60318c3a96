"""`twogate approval notify-test`, and what `twogate check` says of channels."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from noticelab import secret_file
from rawlab import RawServer, answering, http_answer
from twogate.cli.main import app


@contextmanager
def receiver(status: bytes = b"200 OK") -> Generator[RawServer]:
    """A receiver in a thread, because the command has an event loop of its own."""
    server, ready, done = RawServer(answering(http_answer(b"", status=status))), threading.Event(), threading.Event()

    async def serve() -> None:
        async with server:
            ready.set()
            await asyncio.to_thread(done.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield server
    finally:
        done.set()
        thread.join(10)


def written(directory: Path, **channels: str) -> str:
    file = directory / "twogate.yaml"
    lines = "".join(f"  {name}: {{slack: {{url: {path}}}}}\n" for name, path in channels.items())
    file.write_text(
        "public_url: http://localhost:8080\nlisten: 127.0.0.1:8080\nstore: sqlite:///./state/twogate.db\n"
        "tenants: {acme: {}}\n" + (f"notify:\n{lines}" if lines else "")
    )
    return str(file)


def test_every_channel_is_tried_and_what_failed_is_said(tmp_path: Path) -> None:
    with receiver() as good, receiver(b"403 Forbidden") as bad:
        urls = {
            name: str(secret_file(tmp_path, name, f"http://127.0.0.1:{server.port}/hidden"))
            for name, server in (("good", good), ("bad", bad))
        }
        config = written(tmp_path, **urls)
        result = CliRunner().invoke(app, ["approval", "notify-test", "-c", config, "--json"])
        assert result.exit_code == 1
        document = json.loads(result.stdout)
        assert (document["ok"], [row["ok"] for row in document["channels"]]) == (False, [True, False])
        assert "status 403" in document["channels"][1]["problem"]
        assert "hidden" not in result.output
        assert b"Test message: nothing waits" in good.requests[0][1]
        result = CliRunner().invoke(app, ["approval", "notify-test", "-c", config, "--channel", "good"])
        assert (result.exit_code, result.stdout) == (0, "good (slack): sent\n")
        assert len(bad.requests) == 1


def test_a_channel_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["approval", "notify-test", "-c", written(tmp_path), "--channel", "x"])
    assert result.exit_code != 0
    assert "there is no channel 'x'" in result.stderr


@pytest.mark.parametrize("mode", [0o644, 0o600])
def test_check_lists_channels_and_warns_of_secrets_that_are_open(tmp_path: Path, mode: int) -> None:
    config = written(tmp_path, ops=str(secret_file(tmp_path, "url", "https://hooks.slack.com/services/hidden", mode)))
    document = json.loads(CliRunner().invoke(app, ["check", "-c", config, "--json"]).stdout)
    assert document["notify"] == [
        {"name": "ops", "way": "slack", "tenants": [], "events": ["requested", "reminded", "escalated"]}
    ]
    warned = [line for line in document["warnings"] if line.startswith("notify.ops")]
    assert len(warned) == (1 if mode == 0o644 else 0)
    result = CliRunner().invoke(app, ["check", "-c", config])
    assert "requested, reminded, escalated" in result.stdout
    assert "hidden" not in result.output
