"""Fixtures that every kind of test shares."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import harness.stack
from harness.issuer import TestIssuer
from harness.measuring import Measuring, longest_first
from harness.postgres import Cluster, running_cluster
from harness.stack import Stack, free_port, running, settings_for
from harness.upstream import RecordingUpstream
from harness.valkey import Valkey, running_valkey


def pytest_configure(config: pytest.Config) -> None:
    """Measure only what counts."""
    config.pluginmanager.register(Measuring())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run first what takes longest."""
    longest_first(items)


@pytest.fixture
async def issuer() -> AsyncIterator[TestIssuer]:
    """An external issuer that signs whatever the test wants."""
    async with TestIssuer() as made:
        yield made


@pytest.fixture
async def upstream() -> AsyncIterator[RecordingUpstream]:
    """The MCP server `files`, which records what it sees."""
    async with RecordingUpstream() as made:
        yield made


@pytest.fixture
async def other_upstream() -> AsyncIterator[RecordingUpstream]:
    """The MCP server `notes`."""
    async with RecordingUpstream() as made:
        yield made


@pytest.fixture(autouse=True)
def front(request: pytest.FixtureRequest) -> Iterator[None]:
    """What stacks are here; `pytest.mark.parametrize("front", FRONTS, indirect=True)` runs tests over each kind."""
    harness.stack.front = getattr(request, "param", "gateway")
    yield
    harness.stack.front = "gateway"


@pytest.fixture
async def stack(
    tmp_path: Path, issuer: TestIssuer, upstream: RecordingUpstream, other_upstream: RecordingUpstream
) -> AsyncIterator[Stack]:
    """A gateway in front of `files` and `notes`, trusting the issuer for the tenant acme."""
    servers = {"files": {"url": upstream.url}, "notes": {"url": other_upstream.url}}
    async with running(tmp_path, settings_for(tmp_path, free_port(), servers, issuer)) as made:
        yield made


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server that every test shares; each makes databases of its own."""
    with running_cluster() as running_one:
        yield running_one


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A Valkey server that every test shares; each deployment's keys are its own."""
    with running_valkey() as running_one:
        yield running_one
