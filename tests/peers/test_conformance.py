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
from peers.everything import SERVER, Everything, everything_behind, everything_server
from peers.peers import CONFORMANCE, NODE, require
from processlab import PATIENCE

pytestmark = pytest.mark.peer

REQUIRED = {"2025-11-25": 30, "2026-07-28": 37}
"""Each revision of MCP, and how many scenarios must have run at least."""

Verdicts = dict[tuple[str, str, int], str]
"""What a run found, by scenario and check; a check that a scenario makes more than once is numbered."""

DIFFERENT: dict[str, Verdicts] = {
    # A trailing blank is no part of a header's value (RFC 9110 section 5.5). The SDK's server compares it; the gateway
    # strips it and makes every header of the request to the server anew.
    "2026-07-28": {("http-header-validation", "http-header-trailing-whitespace", 1): "SUCCESS"},
}
"""What is not the same through the gateway, and why."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    with everything_server() as url, everything_behind(tmp_path_factory.mktemp("twogate"), url) as made:
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
            verdicts[folder[1], check["id"], times] = check["status"]
    return verdicts


@pytest.mark.parametrize("revision", REQUIRED)
async def test_what_conforms_without_the_gateway_conforms_through_it(
    world: Everything, revision: str, tmp_path: Path
) -> None:
    direct = await conformance(world.direct, revision, tmp_path / "direct")
    trust = ssl.create_default_context(cafile=str(world.gateway.directory / "ca.pem"))
    async with injecting(world.gateway.url, world.token(), trust=trust) as origin:
        through = await conformance(f"{origin}/mcp/{SERVER}", revision, tmp_path / "through")
    assert {key: found for key, found in through.items() if found != direct.get(key)} == DIFFERENT.get(revision, {})
    assert through.keys() == direct.keys()
