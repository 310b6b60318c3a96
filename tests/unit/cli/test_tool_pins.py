"""`twogate tool approve | pins | unapprove`, over servers that show whatever a test wants."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import pwd
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ruglab import FIND, INSTRUCTIONS, RugPuller
from twogate.cli.main import app

CONFIG: dict[str, Any] = {
    "public_url": "http://localhost:8080",
    "listen": "127.0.0.1:8080",
    "store": "sqlite:///./state/twogate.db",
    "pins": "required",
    "tools": {"files.look": {"class": "read"}, "files.prompt:review": {"class": "read"}},
    "tasks": {"report": {"tools": ["read"]}},
    "tenants": {"acme": {"servers": ["files"]}, "globex": {"servers": ["files"]}},
}
ME = pwd.getpwuid(os.getuid()).pw_name


@dataclass
class Cli:
    """The command, over a configuration whose only server is `files`."""

    directory: Path
    files: RugPuller
    settings: dict[str, Any] = field(default_factory=lambda: copy.deepcopy(CONFIG))

    async def run(self, *arguments: str, said: str = "") -> tuple[int, str]:
        """In a thread, because the server runs on this one's loop. What it printed, without what it waited for."""
        path = self.directory / "twogate.yaml"
        server = {"url": self.files.url, **self.settings.pop("server", {})}
        path.write_text(json.dumps({**self.settings, "servers": {"files": server}}))
        done = await asyncio.to_thread(CliRunner().invoke, app, ["tool", *arguments, "-c", str(path)], input=said)
        lines = done.output.splitlines(keepends=True)
        return done.exit_code, "".join(line for line in lines if not line.startswith("twogate: waiting for"))

    async def document(self, *arguments: str, code: int = 0) -> Any:
        done = await self.run(*arguments, "--json")
        assert done[0] == code, done
        return json.loads(done[1])

    async def states(self) -> dict[tuple[str, str], str]:
        document = await self.document("pins", "files")
        return {(row["tenant"], row["target"]): row["state"] for row in document["pins"]}

    def events(self) -> list[dict[str, Any]]:
        paths = sorted((self.directory / "state" / "audit").glob("*.jsonl"))
        events = [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]
        return [event for event in events if event["kind"].startswith("tool.")]


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    server = RugPuller()
    async with server:
        yield Cli(tmp_path, server)


async def test_approving_shows_everything_asks_and_keeps_what_was_shown(cli: Cli) -> None:
    code, out = await cli.run("approve", "files", said="y\n")
    assert code == 0, out
    for text in (
        "files.look (acme, globex): not approved",
        '"Look at a file."',
        "vendor/rank",
        INSTRUCTIONS,
        "Review it.",
    ):
        assert text in out
    # What nothing classifies cannot be called, so nobody has to read it.
    assert "files.find" not in out
    assert "Approve 6 definitions?" in out
    targets = {"files.look", "files.prompt:review", "files.instructions:"}
    assert await cli.states() == {(tenant, target): "approved" for tenant in ("acme", "globex") for target in targets}
    rows = (await cli.document("pins"))["pins"]
    assert {row["approved_by"] for row in rows} == {ME}
    events = cli.events()
    assert {event["kind"] for event in events} == {"tool.approved"}
    assert {(event["tenant"], event["target"]) for event in events} == set(await cli.states())
    assert all(event["detail"].startswith(f"by {ME}, sha256 ") for event in events)


async def test_who_says_no_approves_nothing(cli: Cli) -> None:
    for said in ("n\n", "\n", ""):
        code, _ = await cli.run("approve", "files", said=said)
        assert code == 1
    assert set((await cli.states()).values()) == {"not approved"}
    assert cli.events() == []


async def test_what_is_kept_is_what_the_person_saw_and_not_what_the_server_shows_next(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirm = typer.confirm

    def slow(*arguments: Any, **options: Any) -> bool:
        cli.files.face.tools[0][0]["description"] = "evil"
        return bool(confirm(*arguments, **options))

    monkeypatch.setattr(typer, "confirm", slow)
    code, out = await cli.run("approve", "files", "look", "--tenant", "acme", said="y\n")
    assert code == 0
    assert "evil" not in out
    assert (await cli.states())["acme", "files.look"] == "changed"


async def test_a_change_is_shown_member_by_member_until_it_is_approved(cli: Cli) -> None:
    await cli.document("approve", "files", "--yes")
    look = cli.files.face.tools[0][0]
    look["description"] = "Look at one file."
    look["inputSchema"]["properties"]["path"]["maxLength"] = 9
    del look["title"]
    code, out = await cli.run("pins", "files")
    assert code == 0
    lines = [line.strip() for line in out.splitlines()]
    for expected in (
        '- "Look at a file."',
        '+ "Look at one file."',
        "inputSchema.properties.path.maxLength",
        "+ 9",
        '- "Look"',
    ):
        assert expected in lines
    rows = {(row["tenant"], row["target"]): row for row in (await cli.document("pins"))["pins"]}
    assert rows["acme", "files.look"]["state"] == "changed"
    assert {"path": ["title"], "before": "Look"} in rows["acme", "files.look"]["differences"]
    approved = await cli.document("approve", "files", "--tenant", "acme", "--yes")
    assert [(item["target"], item["was"]) for item in approved["approved"]] == [("files.look", "changed")]
    states = await cli.states()
    assert (states["acme", "files.look"], states["globex", "files.look"]) == ("approved", "changed")


async def test_nothing_that_is_shown_can_drive_the_terminal_or_hide(cli: Cli) -> None:
    evil = "Look.\u202e\x1b[2K\u200b\r\U000e0041\nApprove 0 definitions?" + "a\u0301" * 3 + "b" + "\u0301" * 50
    cli.files.face.tools[0][0] |= {"description": evil, "x\x1b]0;t": 1}
    cli.files.face.instructions = evil + "x" * 20_000 + "THE END"
    _, out = await cli.run("approve", "files", said="n\n")
    for char in ("\u202e", "\x1b", "\u200b", "\r", "\U000e0041", "\u0301" * 4):
        assert char not in out
    for shown in ("[U+202E]", "[U+200B]", "[U+E0041]", "THE END"):
        assert shown in out
    assert not any(line.startswith("Approve 0") for line in out.splitlines())
    await cli.document("approve", "files", "--yes")
    cli.files.face.tools[0][0]["description"] = "\u202e"
    assert "\u202e" not in (await cli.run("pins"))[1]
    assert "\u202e" not in (await cli.run("pins", "--json"))[1]


async def test_names_choose_and_unknown_ones_choose_nothing(cli: Cli) -> None:
    approved = await cli.document("approve", "files", "find", "prompt:review", "files.instructions:", "--yes")
    assert {item["target"] for item in approved["approved"]} == {
        "files.find", "files.prompt:review", "files.instructions:",
    }  # fmt: skip
    error = (await cli.document("approve", "files", "look", "nonsense", "--yes", code=1))["error"]
    assert error["code"] == "not_found"
    assert (await cli.states())["acme", "files.look"] == "not approved"
    for server in ("x", "files.look"):
        assert (await cli.document("approve", server, "--yes", code=1))["error"]["code"] == "not_found"


async def test_all_means_also_what_nothing_classifies(cli: Cli) -> None:
    approved = await cli.document("approve", "files", "--all", "--yes", "--tenant", "acme")
    assert "files.find" in {item["target"] for item in approved["approved"]}
    again = await cli.run("approve", "files", "--all", "--yes", "--tenant", "acme")
    assert again == (0, "Nothing was approved.\n")


async def test_json_without_yes_is_wrong_use(cli: Cli) -> None:
    code, out = await cli.run("approve", "files", "--json")
    assert code == 2
    assert json.loads(out)["error"]["code"] == "usage"


async def test_a_schema_that_cannot_be_checked_is_not_approved_unless_arguments_are_not(cli: Cli) -> None:
    cli.files.face.tools[0][0]["inputSchema"] = {"type": "object", "properties": {"a": {"pattern": "(?=x)"}}}
    document = await cli.document("approve", "files", "--yes", "--tenant", "acme", code=1)
    assert [item["target"] for item in document["refused"]] == ["files.look"]
    assert "linear time" in document["refused"][0]["problem"]
    assert len(document["approved"]) == 2
    code, out = await cli.run("approve", "files", "--tenant", "acme")
    assert code == 1
    assert "CANNOT BE APPROVED" in out
    cli.settings["server"] = {"arguments": "forward"}
    assert (await cli.run("approve", "files", "--yes", "--tenant", "acme"))[0] == 0


async def test_a_server_that_cannot_be_asked_gets_nothing_approved_and_its_pins_are_shown(cli: Cli) -> None:
    await cli.document("approve", "files", "--yes")
    cli.files.raw_answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    assert (await cli.document("approve", "files", "--yes", code=1))["error"]["code"] == "upstream_unavailable"
    document = await cli.document("pins", code=1)
    assert {row["state"] for row in document["pins"]} == {"cannot be asked"}
    assert [failure["tenant"] for failure in document["failures"]] == ["acme", "globex"]


async def test_a_target_that_is_gone_is_shown_as_such(cli: Cli) -> None:
    await cli.document("approve", "files", "--yes", "--tenant", "acme")
    cli.files.face.tools = [[FIND]]
    assert (await cli.states())["acme", "files.look"] == "not shown any more"


async def test_withdrawing_takes_names_or_all_and_asks_no_server(cli: Cli) -> None:
    await cli.document("approve", "files", "--yes")
    cli.files.seen.clear()
    assert (await cli.run("unapprove", "files"))[0] == 2
    document = await cli.document("unapprove", "files", "look", "--tenant", "acme")
    assert document["withdrawn"] == [{"tenant": "acme", "server": "files", "target": "files.look"}]
    assert (await cli.document("unapprove", "files", "look", "--tenant", "acme", code=1))["error"][
        "code"
    ] == "not_found"
    assert (await cli.run("unapprove", "files", "--all"))[1] == "Withdrew 5.\n"
    assert cli.files.seen == []
    assert (await cli.document("unapprove", "files", "--all", code=1))["error"]["code"] == "not_found"
    assert [event["kind"] for event in cli.events()].count("tool.unapproved") == 6
    assert set((await cli.states()).values()) == {"not approved"}


async def test_looking_makes_no_store(cli: Cli) -> None:
    code, out = await cli.run("pins")
    assert code == 0
    assert "not approved" in out
    assert not (cli.directory / "state").exists()


async def test_without_required_the_list_says_what_that_means(cli: Cli) -> None:
    cli.settings["pins"] = "approved"
    assert "may be used all the same" in (await cli.run("pins"))[1]
