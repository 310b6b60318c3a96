"""Both generations of the official TypeScript client, in every version that they can speak, through a gateway."""

from __future__ import annotations

from typing import Any

import pytest

from peers.peers import NODE, NODE_PEERS, TYPESCRIPT_CLIENTS, require
from peers.servers import EVERYTHING, REFERENCE_SERVERS, World
from peers.test_older_sdks import check_reference
from peers.tour import EVERYTHING_HANDSHAKE, EVERYTHING_MODERN, HANDSHAKE, REFERENCE, REFUSED, Stop, walk

pytestmark = pytest.mark.peer

SPOKEN = [
    *((EVERYTHING, generation, version) for generation in TYPESCRIPT_CLIENTS for version in HANDSHAKE),
    *((f"{EVERYTHING}/sse", generation, "2024-11-05") for generation in TYPESCRIPT_CLIENTS),
]


async def tour(world: World, server: str, generation: str, version: str, stops: tuple[Stop, ...]) -> dict[str, Any]:
    """Let the client make the tour."""
    require(TYPESCRIPT_CLIENTS[generation])
    script = str(NODE_PEERS / "tourist.mjs")
    environment = {"NODE_EXTRA_CA_CERTS": world.ca}
    return await walk(world, server, version, stops, require(NODE), script, generation, **environment)


@pytest.mark.parametrize(("endpoint", "generation", "version"), SPOKEN)
async def test_every_version_makes_the_tour_of_the_everything_server(
    many: World, endpoint: str, generation: str, version: str
) -> None:
    met = await tour(many, endpoint, generation, version, EVERYTHING_HANDSHAKE)
    assert met["session"] == (endpoint == EVERYTHING)
    assert met["asked"] == ["sampling/createMessage", "elicitation/create"]
    assert met["progress"] == [[0, 100], [50, 100], [100, 100]]
    assert met["notified"] == ["notifications/message"] * 3


async def test_the_newest_version_makes_the_tour_without_a_session(many: World) -> None:
    met = await tour(many, EVERYTHING, "2", "2026-07-28", EVERYTHING_MODERN)
    assert not met["session"]
    assert met["asked"][:3] == ["elicitation/create", "sampling/createMessage", "roots/list"]
    # Later the client counts its own rounds.
    assert met["progress"][:3] == [[0, 100], [50, 100], [100, 100]]


@pytest.mark.parametrize("generation", TYPESCRIPT_CLIENTS)
@pytest.mark.parametrize("server", REFERENCE_SERVERS)
async def test_both_generations_make_the_tour_of_the_reference_server(
    many: World, server: str, generation: str
) -> None:
    met = await tour(many, server, generation, "2025-11-25", REFERENCE)
    check_reference(met["results"])
    assert {"sampling/createMessage", "elicitation/create", "roots/list"} == set(met["asked"])
    assert met["progress"] == [[1, 2], [2, 2]]


@pytest.mark.parametrize("generation", TYPESCRIPT_CLIENTS)
@pytest.mark.parametrize("server", REFERENCE_SERVERS)
async def test_a_refusal_ends_nothing(many: World, server: str, generation: str) -> None:
    await tour(many, server, generation, "2025-11-25", REFUSED)
