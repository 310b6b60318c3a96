"""The first generation of the official Python client, in each version that it can speak, through a gateway.

Behind it are the everything-server, the reference server over each transport, and mcp-server-git: servers of both
generations, in two languages.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from peers.peers import MCP_SERVER_GIT, OLDER_PYTHON, require
from peers.servers import EVERYTHING, World, behind
from peers.tour import EVERYTHING_HANDSHAKE, HANDSHAKE, REFERENCE, ROOT, SAMPLED, Stop, attempt, walk

pytestmark = pytest.mark.peer

CLIENT = str(Path(__file__).parent / "older_client.py")
GIT = ("git", "-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")


@pytest.mark.parametrize(
    ("endpoint", "version"),
    [*((EVERYTHING, version) for version in HANDSHAKE), (f"{EVERYTHING}/sse", "2024-11-05")],
)
async def test_every_version_makes_the_tour_of_the_everything_server(many: World, endpoint: str, version: str) -> None:
    met = await walk(many, endpoint, version, EVERYTHING_HANDSHAKE, require(OLDER_PYTHON), CLIENT)
    assert met["server"] == "mcp-conformance-test-server"
    assert met["asked"] == ["sampling/createMessage", "elicitation/create"]
    assert met["progress"] == [[0, 100], [50, 100], [100, 100]]
    assert met["notified"] == ["notifications/message"] * 3


@pytest.mark.parametrize(
    ("server", "version"),
    [("reference-sse", "2024-11-05"), ("reference-stdio", "2025-03-26"), ("reference", "2025-06-18")],
)
async def test_it_makes_the_tour_of_the_reference_server_over_every_transport(
    many: World, server: str, version: str
) -> None:
    met = await walk(many, server, version, REFERENCE, require(OLDER_PYTHON), CLIENT)
    check_reference(met["results"])
    assert met["server"] == "mcp-servers/everything"
    assert {"sampling/createMessage", "elicitation/create", "roots/list"} == set(met["asked"])
    assert met["progress"] == [[1, 2], [2, 2]]


def check_reference(results: list[object]) -> None:
    """What the reference server says at greater length than the tour."""
    answers = {stop.step[1]: result for stop, result in zip(REFERENCE, results, strict=True) if len(stop.step) > 1}
    assert SAMPLED in str(answers["trigger-sampling-request"])
    assert "Name: Ada" in str(answers["trigger-elicitation-request"])
    assert ROOT in str(answers["get-roots-list"])


@pytest.fixture(scope="module")
def git(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Path]]:
    repository = tmp_path_factory.mktemp("git") / "repository"
    subprocess.run([*GIT, "init", "-q", str(repository)], check=True)
    subprocess.run([*GIT, "-C", str(repository), "commit", "-q", "--allow-empty", "-m", "The first one"], check=True)
    servers = {"git": {"command": [require(MCP_SERVER_GIT), "--repository", str(repository)]}}
    reads = {"git": ["git_status", "git_log"]}
    with behind(tmp_path_factory.mktemp("twogate"), servers, reads, writes=["git.git_commit"]) as world:
        yield world, repository


CLEAN = "Repository status:\nOn branch main\nnothing to commit, working tree clean"


@pytest.mark.parametrize("version", HANDSHAKE)
async def test_every_version_reads_a_repository(git: tuple[World, Path], version: str) -> None:
    world, repository = git
    tour = (
        Stop(("tools",), ["git_log", "git_status"]),
        Stop(("call", "git_status", {"repo_path": str(repository)}), CLEAN),
    )
    met = await walk(world, "git", version, tour, require(OLDER_PYTHON), CLIENT)
    assert met["server"] == "mcp-git"
    assert met["asked"] == []


async def test_a_refusal_ends_the_connection_of_this_generation_and_changes_nothing(git: tuple[World, Path]) -> None:
    world, repository = git
    before = len(world.gateway.events())
    tour = (Stop(("call", "git_commit", {"repo_path": str(repository), "message": "mine"})),)
    # It takes every status from 400 on for the end of its transport, whatever the body says.
    code, _, complained = await attempt(world, "git", "2025-11-25", tour, require(OLDER_PYTHON), CLIENT)
    assert code == 1
    assert "403 Forbidden" in complained
    refused = [event for event in world.gateway.events()[before:] if event["kind"] == "call.refused"]
    assert [(event["target"], event["reason"]) for event in refused] == [("git.git_commit", "role_not_permitted")]
    assert commits(repository) == 1


def commits(repository: Path) -> int:
    """How many commits the repository has, counted beside the server."""
    command = [*GIT, "-C", str(repository), "rev-list", "--count", "--all"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
