"""The official conformance suite's scenarios for authorization servers: metadata, and the authorization code grant.

The suite opens a port for its callback and prints the address for a person to visit. Because the metadata lists clients
that do not authenticate, it never authenticates, so its client is a public one.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from harness.stack import free_port
from peers.oauthworld import OAuthWorld, oauth_world
from peers.peers import CONFORMANCE, NODE, require
from peers.servers import everything_server
from processlab import PATIENCE

pytestmark = pytest.mark.peer

SCENARIOS = {
    "authorization-server-metadata-endpoint": ["authorization-server-metadata", "authorization-server-metadata-cimd"],
    "authorization-code-grant": ["authorization-code-grant"],
}
"""Each scenario, and the checks that it must have made."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OAuthWorld]:
    # The suite also wants client ID metadata documents to be supported.
    documents = [{"tenant": "acme", "domain": "clients.example.com"}]
    with (
        everything_server() as url,
        oauth_world(tmp_path_factory.mktemp("twogate"), url, cimd=documents) as made,
    ):
        yield made


async def test_every_scenario_for_authorization_servers_passes(world: OAuthWorld, tmp_path: Path) -> None:
    port = free_port()
    command = [
        require(NODE), require(CONFORMANCE), "authorization", "--url", world.url, "--client-id", "native",
        "--resource", world.resource, "-p", str(port), "-o", str(tmp_path),
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "NODE_EXTRA_CA_CERTS": world.ca},
    )
    said: list[str] = []
    try:
        async with asyncio.timeout(2 * PATIENCE):
            assert process.stdout is not None
            async for raw in process.stdout:
                line = raw.decode().strip()
                said.append(line)
                if line.startswith(f"{world.url}/authorize?"):
                    await asyncio.to_thread(visit, world, line)
            code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found = read_checks(tmp_path)
    assert found == {(scenario, check): "SUCCESS" for scenario, checks in SCENARIOS.items() for check in checks}, (
        "\n".join(said)
    )
    assert code == 0


def visit(world: OAuthWorld, url: str) -> None:
    """Do as the suite says: open the address, log in, allow, and follow the redirect to its callback."""
    with world.person() as person:
        callback = person.open(url)
    assert httpx2.get(callback, trust_env=False, timeout=PATIENCE).status_code == 200


def read_checks(out: Path) -> dict[tuple[str, str], Any]:
    """What the suite wrote, a folder for each scenario."""
    found: dict[tuple[str, str], Any] = {}
    for file in sorted(out.glob("*/checks.json")):
        folder = re.fullmatch(r"authorization-server-(.+)-\d{4}-\d\d-\d\dT[\dZ-]+", file.parent.name)
        assert folder is not None, file
        for check in json.loads(file.read_bytes()):
            found[folder[1], check["id"]] = check["status"]
    return found
