from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.stores import KINDS, LEASED, SQLITE, Stores, open_stores
from harness.postgres import Cluster


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind, empty."""
    if kind == SQLITE:
        return f"sqlite:///{tmp_path}/state/twogate.db"
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.url(cluster.new_user())


@pytest.fixture
async def stores(kind: str, url: str) -> AsyncIterator[Stores]:
    async with open_stores(url, leased=kind == LEASED) as opened:
        yield opened
