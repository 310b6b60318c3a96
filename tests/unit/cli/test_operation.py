"""`twogate operation issue`, against a server that runs: what it prints, for whom, and what it refuses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from harness.issuer import TestIssuer
from harness.upstream import RecordingUpstream
from operationlab import ARGUMENTS, SECRET, OperationLab, claims_of, open_operation_lab
from twogate.cli.main import app


@pytest.fixture
async def lab(tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream) -> AsyncIterator[OperationLab]:
    (tmp_path / "arguments.json").write_text(json.dumps(ARGUMENTS))
    (tmp_path / "gate.json").write_text(json.dumps({"client_id": "gate", "client_secret": SECRET, "kind": "x"}))
    async with open_operation_lab(tmp_path, issuer, upstream) as made:
        yield made


async def issue(lab: OperationLab, *options: str, stdin: str = "") -> Result:
    config = str(lab.stack.directory / "twogate.yaml")
    command = ["operation", "issue", "--tool", "files.change", "--config", config, *options]
    return await asyncio.to_thread(CliRunner().invoke, app, command, stdin)


def arguments(lab: OperationLab) -> tuple[str, str]:
    return "--arguments", str(lab.stack.directory / "arguments.json")


async def test_an_authorizer_issues_with_its_credentials(lab: OperationLab) -> None:
    robot = lab.robot()
    client = ("--client", str(lab.stack.directory / "gate.json"))
    done = await issue(lab, "--session", await lab.sid(robot), *arguments(lab), *client)
    assert (done.exit_code, done.stderr) == (0, "")
    assert (await lab.change(robot, done.stdout.strip())).status_code == 200
    assert lab.ran == ["change"]


async def test_a_host_issues_with_the_token_on_standard_input(lab: OperationLab) -> None:
    helper = await lab.helper()
    sid = await lab.sid(helper)
    done = await issue(lab, lab.url, "--session", sid, *arguments(lab), "--json", stdin=f"{await lab.host()}\n")
    assert done.exit_code == 0
    printed: dict[str, Any] = json.loads(done.stdout)
    assert printed.keys() == {"operation_token", "expires_in", "digest"}
    assert claims_of(printed["operation_token"])["digest"] == printed["digest"]
    assert (await lab.change(helper, printed["operation_token"])).status_code == 200


async def test_a_key_pair_made_by_client_add_issues_too(lab: OperationLab) -> None:
    config = str(lab.stack.directory / "twogate.yaml")
    listed = ("--agent", "acme/robot", "--tool", "write")
    command = ["client", "add", "signing", "--tenant", "acme", "--kind", "authorizer", *listed]
    added = await asyncio.to_thread(CliRunner().invoke, app, [*command, "--config", config, "--json"])
    assert added.exit_code == 0, added.output
    (lab.stack.directory / "signing.json").write_text(added.stdout)
    client = ("--client", str(lab.stack.directory / "signing.json"))
    done = await issue(lab, "--session", await lab.sid(lab.robot()), *client, "--json")
    assert done.exit_code == 0, done.output
    assert claims_of(json.loads(done.stdout)["operation_token"])["minter"] == "signing"


async def test_refusals_are_told_in_the_servers_words(lab: OperationLab) -> None:
    sid = await lab.sid(await lab.helper())
    client = ("--client", str(lab.stack.directory / "gate.json"))
    (lab.stack.directory / "wrong.json").write_text('{"client_id": "gate", "client_secret": "wrong"}')
    (lab.stack.directory / "none.json").write_text('{"client_id": "gate"}')
    (lab.stack.directory / "list.json").write_text("[1]")
    (lab.stack.directory / "twice.json").write_text('{"a": 1, "a": 2}')
    place = str(lab.stack.directory)
    for options, code in (
        (("--session", sid, *client), "mint_refused"),
        (("--session", sid, "--client", f"{place}/wrong.json"), "invalid_client"),
        (("--session", sid, "--client", f"{place}/none.json"), "failed"),
        (("--session", sid, "--arguments", f"{place}/list.json"), "usage"),
        (("--session", sid, "--arguments", f"{place}/twice.json"), "duplicate_key"),
        (("--session", sid), "failed"),
        (("http://elsewhere.example", "--session", sid), "usage"),
        (("http://localhost:9", "--session", sid, *client), "unreachable"),
    ):
        done = await issue(lab, *options, "--json")
        assert (done.exit_code, json.loads(done.stdout)["error"]["code"]) == (1, code), (options, done.output)
        assert SECRET not in done.output
