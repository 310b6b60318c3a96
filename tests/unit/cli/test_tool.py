from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cataloguelab import ToolServer, annotated, status, tool
from twogate.cli import ask_tools
from twogate.cli.main import app

CONFIG: dict[str, Any] = {
    "public_url": "http://localhost:8080",
    "listen": "127.0.0.1:8080",
    "store": "sqlite:///./state/twogate.db",
    "tools": {"files.look": {"class": "read"}, "files.gone": {"class": "write"}, "notes.look": {"class": "search"}},
    "tasks": {"report": {"tools": ["read"]}},
    "tenants": {"acme": {"servers": ["files", "notes"]}, "globex": {"servers": ["notes"]}},
}
# One whose process says why it cannot serve.
BROKEN = [sys.executable, "-c", "import sys; sys.stderr.write('no such\\n\\x1b]0;repository\\n'); sys.exit(3)"]


@dataclass
class Cli:
    """The command, over a configuration whose servers are `files` and `notes`."""

    directory: Path
    files: ToolServer
    notes: ToolServer

    async def run(self, *arguments: str, **changes: Any) -> tuple[int, str, str]:
        """In a thread, because the servers run on this one's loop."""
        servers = {"files": {"url": self.files.url}, "notes": {"url": self.notes.url}}
        path = self.directory / "twogate.yaml"
        path.write_text(json.dumps({**CONFIG, "servers": servers, **changes}))
        result = await asyncio.to_thread(CliRunner().invoke, app, ["tool", *arguments, "-c", str(path)])
        return result.exit_code, result.stdout, result.stderr

    async def document(self, *arguments: str, code: int = 0, **changes: Any) -> Any:
        done = await self.run(*arguments, "--json", **changes)
        assert done[0] == code, done
        return json.loads(done[1])


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    pages = ((tool("look"), tool("wipe")), (annotated("sql", region="no token"), tool("a b")))
    async with ToolServer(pages) as files, ToolServer(((tool("look"),),), modern=False) as notes:
        yield Cli(tmp_path, files, notes)


async def test_list_compares_what_the_servers_have_with_the_configuration_for_each_tenant(cli: Cli) -> None:
    document = await cli.document("list")
    assert document["failures"] == []
    rows = {
        (row["tenant"], row["target"]): (row["class"], row["listed"], (row["problem"] or "").partition(":")[0])
        for row in document["tools"]
    }
    assert rows == {
        ("acme", "files.look"): ("read", True, ""),
        ("acme", "files.wipe"): (None, True, ""),
        ("acme", "files.sql"): (None, True, "closed to clients of MCP 2026-07-28"),
        ("acme", "files.a b"): (None, True, "its name cannot stand in the configuration, so it cannot be classified"),
        ("acme", "files.gone"): ("write", False, "missing upstream"),
        ("acme", "notes.look"): ("search", True, ""),
        ("globex", "notes.look"): ("search", True, ""),
    }
    assert not (cli.directory / "state").exists(), "asking servers opens no store"


async def test_list_is_readable_and_points_to_what_to_do(cli: Cli) -> None:
    code, out, err = await cli.run("list")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["acme", "files", "wipe", "unclassified"] in lines
    assert ["acme", "files", "gone", "write", "missing", "upstream"] in lines
    assert "3 of them cannot be called" in out


async def test_list_can_be_narrowed_to_a_tenant_and_a_server(cli: Cli) -> None:
    document = await cli.document("list", "--tenant", "globex")
    assert [(row["tenant"], row["target"]) for row in document["tools"]] == [("globex", "notes.look")]
    document = await cli.document("list", "--server", "notes", "--tenant", "acme")
    assert [(row["tenant"], row["target"]) for row in document["tools"]] == [("acme", "notes.look")]
    assert cli.files.seen == []
    for narrow, said in (("--tenant", "there is no tenant x"), ("--server", "there is no server x")):
        assert (await cli.document("list", narrow, "x", code=1))["error"]["message"].startswith(said)
    error = (await cli.document("list", "--tenant", "globex", "--server", "files", code=1))["error"]
    assert error["code"] == "not_found"


async def test_a_server_that_cannot_be_asked_fails_the_command_and_hides_nothing_of_the_others(cli: Cli) -> None:
    cli.files.override = lambda seen: status(b"401 Unauthorized")
    document = await cli.document("list", code=1)
    assert {row["target"] for row in document["tools"]} == {"notes.look"}
    (failure,) = document["failures"]
    assert (failure["tenant"], failure["server"], failure["code"]) == ("acme", "files", "upstream_unavailable")
    assert "wants a credential" in failure["message"]
    code, out, err = await cli.run("list")
    assert code == 1
    assert "notes" in out
    assert err.startswith("twogate: files cannot be asked for its tools in the name of acme: status 401")


async def test_the_end_of_a_failed_processs_stderr_is_shown(cli: Cli) -> None:
    servers = {"files": {"command": BROKEN}}
    changes = {"servers": servers, "tools": {}, "tenants": {"acme": {"servers": ["files"]}}}
    document = await cli.document("list", code=1, **changes)
    assert document["failures"][0]["stderr"][-2:] == ["no such", "\\u001b]0;repository"]
    _, _, err = await cli.run("list", **changes)
    assert err.rstrip().endswith("  no such\n  \\u001b]0;repository")


async def test_a_ca_file_that_holds_no_certificate_is_that_servers_failure(cli: Cli) -> None:
    (cli.directory / "ca.pem").write_text("nothing")
    servers = {"files": {"url": "https://localhost:1/mcp", "ca": "ca.pem"}, "notes": {"url": cli.notes.url}}
    document = await cli.document("list", code=1, servers=servers)
    (failure,) = document["failures"]
    assert (failure["server"], failure["code"]) == ("files", "system")
    assert failure["message"].startswith("files: ")
    assert {row["target"] for row in document["tools"]} == {"notes.look"}


async def test_what_takes_long_is_said_on_stderr(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask_tools, "PATIENCE", 0.01)
    loop, hold, echo = asyncio.get_running_loop(), asyncio.Event(), typer.echo
    cli.notes.override = lambda seen: hold

    def echoed(text: str, **how: Any) -> None:
        echo(text, **how)
        if "acme/notes, globex/notes" in text:
            loop.call_soon_threadsafe(hold.set)

    monkeypatch.setattr(typer, "echo", echoed)
    code, _, err = await cli.run("list")
    assert code == 0
    assert err.startswith("twogate: waiting for ")
    assert "acme/notes, globex/notes\n" in err


async def test_without_servers_there_is_nothing_to_list(cli: Cli) -> None:
    code, out, _ = await cli.run("list", servers={}, tools={}, tenants={"acme": {}})
    assert (code, out.strip()) == (0, "No server has a tool.")


CLAIMED: list[tuple[dict[str, bool], str | None, str]] = [
    ({}, None, "nothing"),
    ({"readOnlyHint": True}, "read", "read-only"),
    ({"readOnlyHint": True, "openWorldHint": False}, "read", "read-only"),
    ({"readOnlyHint": True, "openWorldHint": True}, "fetch", "read-only, open world"),
    ({"readOnlyHint": False}, "write", "not read-only"),
    ({"readOnlyHint": False, "destructiveHint": True}, "write", "not read-only, destructive"),
    ({"destructiveHint": True, "openWorldHint": True}, "send", "destructive, open world"),
    ({"openWorldHint": True}, None, "open world"),
]


@pytest.mark.parametrize(("claims", "guess", "because"), CLAIMED)
async def test_classify_guesses_by_what_the_server_claims_and_says_so(
    cli: Cli, claims: dict[str, bool], guess: str | None, because: str
) -> None:
    cli.files.pages = ((tool("look", annotations={"readOnlyHint": True}), tool("wipe", annotations=claims)),)
    document = await cli.document("classify", "files")
    assert document == {
        "server": "files",
        "proposals": [{"target": "files.wipe", "class": guess, "because": because}],
    }


async def test_nothing_that_classify_prints_takes_effect_when_it_is_pasted(cli: Cli) -> None:
    cli.files.pages = ((tool("wipe", annotations={"readOnlyHint": True}), tool("resource:x"), tool("a b")),)
    code, out, err = await cli.run("classify", "files")
    assert (code, err) == (0, "")
    assert all(line.startswith("#") for line in out.splitlines())
    assert "#   files.wipe: {class: read}  # the server says: read-only\n" in out
    assert "#   files.tool:resource:x: {class: }  # the server says: nothing\n" in out
    assert "a b" not in out
    assert "nobody checked" in out


async def test_classify_has_nothing_to_say_of_a_server_whose_tools_are_classified(cli: Cli) -> None:
    code, out, _ = await cli.run("classify", "notes")
    assert (code, out.strip()) == (0, "Every tool of notes that can be classified is.")


async def test_classify_asks_in_the_name_of_every_tenant_that_has_the_server(cli: Cli) -> None:
    await cli.document("classify", "notes")
    assert cli.notes.lists == 2
    await cli.document("classify", "notes", "--tenant", "globex")
    assert cli.notes.lists == 3


@pytest.mark.parametrize("name", ["nonsense", "lonely"])
async def test_classify_needs_a_server_that_a_tenant_has(cli: Cli, name: str) -> None:
    servers = {"lonely": {"url": cli.files.url}, "files": {"url": cli.files.url}, "notes": {"url": cli.notes.url}}
    document = await cli.document("classify", name, code=1, servers=servers)
    assert document["error"]["code"] == "not_found"


async def test_classify_fails_if_the_server_cannot_be_asked(cli: Cli) -> None:
    cli.files.override = lambda seen: status(b"503 Service Unavailable")
    document = await cli.document("classify", "files", code=1)
    assert document["error"]["code"] == "upstream_unavailable"
    assert "status 503" in document["error"]["message"]


async def test_what_a_server_calls_its_tools_cannot_drive_the_terminal(cli: Cli) -> None:
    cli.files.pages = ((annotated("look\u061b", region="\x1b]0;x\x07"),),)
    code, out, _ = await cli.run("list")
    assert code == 0
    assert "\x1b" not in out
