"""Servers that guard themselves, as the configuration and the commands know them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from twogate.cli.main import app
from twogate.config import ConfigError, LibraryServer, load_settings


def write(directory: Path, **changes: Any) -> Path:
    settings: dict[str, Any] = {
        "public_url": "https://notes.example.com",
        "listen": "127.0.0.1:8000",
        "store": f"sqlite:///{directory}/state/twogate.db",
        "state": f"{directory}/state",
        "servers": {"notes": {"library": True}},
        "tools": {"notes.look": {"class": "read"}},
        "tasks": {"report": {"tools": ["notes.look"]}},
        "agents": {
            "acme/robot": {
                "role": "reader", "tasks": ["report"], "bindings": [{"issuer": "embedded", "client_id": "robot"}],
            }
        },
        "tenants": {"acme": {"servers": ["notes"]}},
        **changes,
    }  # fmt: skip
    path = directory / "twogate.yaml"
    path.write_text(json.dumps(settings))
    return path


def run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, arguments)))
    return done.exit_code, done.output


def test_it_needs_no_tls_of_twogates_because_another_server_has_the_connection(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path)).servers == {"notes": LibraryServer(library=True)}


def test_serve_refuses_a_file_without_tls_that_only_such_a_server_may_have(tmp_path: Path) -> None:
    code, output = run("serve", "--config", write(tmp_path))
    assert code == 1
    assert "tls: is missing" in output
    assert not (tmp_path / "state").exists()


def test_check_says_that_a_gateway_does_not_serve_it(tmp_path: Path) -> None:
    code, output = run("check", "--config", write(tmp_path))
    assert code == 0
    assert "servers.notes: guarded within its own process (twogate.asgi); `twogate serve` does not serve it" in output


def test_its_tools_cannot_be_asked_for_from_elsewhere(tmp_path: Path) -> None:
    code, output = run("tool", "list", "--json", "--config", write(tmp_path))
    assert code == 1
    assert "guarded within its own process" in output


@pytest.mark.parametrize(
    "server",
    [
        {"library": False},
        {"library": "yes please"},
        {"library": True, "url": "https://a.example/mcp"},
        {"library": True, "command": ["x"]},
        {"library": True, "identity": True},
        {"library": True, "sandbox": {}},
        {},
    ],
)
def test_it_is_one_kind_of_server_and_nothing_else(tmp_path: Path, server: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, servers={"notes": server}))
    assert "servers.notes" in str(caught.value)
