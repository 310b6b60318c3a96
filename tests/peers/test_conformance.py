"""The official conformance suite against the SDK's everything-server: directly, and through a gateway over TLS.

The suite decides check by check; what passes without the gateway must pass with it. The suite sends no credentials, so
the shim of `harness/shim.py` stands before the gateway.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.shim import injecting
from peers.peers import CONFORMANCE, NODE, require
from peers.servers import EVERYTHING, World, behind, everything_server, everything_targets
from processlab import PATIENCE, until

pytestmark = pytest.mark.peer

REQUIRED = {"2025-11-25": 30, "2026-07-28": 37}
"""Each revision of MCP, and how many scenarios must have run at least."""

Verdicts = dict[tuple[str, str, int], str]
"""What a run found, by scenario and check; a check that a scenario makes more than once is numbered. What it only
notes is left out."""

SOUGHT = (
    "confirm_delete", "failing_job", "greet", "multi_input", "protocol_error_job", "slow_compute",
    "test_tool_with_task",
)  # fmt: skip
"""Tools that the suite calls and the server lacks: what comes of it is the server's to say."""

BETTER: dict[str, Verdicts] = {
    "2026-07-28": {
        # Blanks around a header's value are no part of it (RFC 9110 section 5.5). The SDK's server compares them; the
        # gateway strips them, and makes every header of its request to the server anew.
        ("http-header-validation", "sep-2243-server-accepts-whitespace-header-value", 1): "SUCCESS",
        # The server has no tasks and says so (-32601). The gateway knows tasks from earlier calls, so it can tell an
        # unknown one (-32602) without asking the server.
        ("tasks-dispatch-and-envelope", "sep-2663-tasks-get-invalid-task-id-32602", 1): "SUCCESS",
    },
}
"""What fails without the gateway and passes through it, and why. Nothing else may differ."""


@pytest.fixture(scope="module")
def direct() -> Iterator[str]:
    with everything_server() as url:
        yield url


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, direct: str) -> Iterator[World]:
    reads = {EVERYTHING: [*everything_targets(direct), *SOUGHT]}
    with behind(tmp_path_factory.mktemp("twogate"), {EVERYTHING: {"url": direct}}, reads) as made:
        yield made


async def conformance(url: str, revision: str, out: Path) -> Verdicts:
    """Run the scenarios that a revision requires of servers."""
    command = [require(NODE), require(CONFORMANCE), "server", "--url", url, "--requirements", revision]
    process = await asyncio.create_subprocess_exec(
        *command,
        "-o",
        str(out),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), 2 * PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    verdicts = read_verdicts(out)
    assert len({scenario for scenario, *_ in verdicts}) >= REQUIRED[revision], said.decode()
    return verdicts


def read_verdicts(out: Path) -> Verdicts:
    """What the suite wrote, a folder for each scenario."""
    verdicts: Verdicts = {}
    for file in sorted(out.glob("*/checks.json")):
        folder = re.fullmatch(r"server-(.+)-\d{4}-\d\d-\d\dT[\dZ-]+", file.parent.name)
        assert folder is not None, file
        for check in json.loads(file.read_bytes()):
            times = 1 + sum(key[:2] == (folder[1], check["id"]) for key in verdicts)
            if check["status"] != "INFO":
                verdicts[folder[1], check["id"], times] = check["status"]
    return verdicts


@pytest.mark.parametrize("revision", REQUIRED)
async def test_what_conforms_without_the_gateway_conforms_through_it(
    world: World, direct: str, revision: str, tmp_path: Path
) -> None:
    without = await conformance(direct, revision, tmp_path / "direct")
    before = len(world.gateway.events())
    trust = ssl.create_default_context(cafile=world.ca)
    async with injecting(world.gateway.url, world.token(EVERYTHING), trust=trust) as origin:
        through = await conformance(f"{origin}/mcp/{EVERYTHING}", revision, tmp_path / "through")
    assert {check: found for check, found in through.items() if found != without.get(check)} == BETTER.get(revision, {})
    assert through.keys() == without.keys()

    def foreign_hosts() -> int:
        return sum(event.get("reason") == "host_refused" for event in world.gateway.events()[before:])

    # The foreign Host of the check for DNS rebinding reached the gateway as sent. Refusals are written in groups.
    await asyncio.to_thread(until, lambda: foreign_hosts() == 1, "no foreign Host was refused")
