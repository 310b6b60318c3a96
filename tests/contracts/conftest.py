from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.shared import shared_url
from contracts.stores import KINDS, LEASED, SQLITE, VALKEY, Stores, open_stores
from harness.postgres import Cluster
from harness.valkey import Valkey

# Stores that change nothing which replicas keep caches of: a lease makes no difference to them.
_WITHOUT_CACHES = frozenset(
    {
        "test_authorize_request_store", "test_code_store", "test_consent_store", "test_device_store",
        "test_grant_store", "test_notice_store", "test_operation_store", "test_parked_store", "test_registration_store",
        "test_replay_store", "test_upstream_stores",
    }
)  # fmt: skip

_ON_VALKEY = frozenset({"test_replay_store"})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kind" in metafunc.fixturenames:
        module = metafunc.module.__name__.rpartition(".")[2]
        kinds = [kind for kind in KINDS if kind != LEASED or module not in _WITHOUT_CACHES]
        kinds += [VALKEY] if module in _ON_VALKEY else []
        metafunc.parametrize("kind", kinds, indirect=True)


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of each kind, empty."""
    if kind == SQLITE:
        return f"sqlite:///{tmp_path}/state/twogate.db"
    if kind == VALKEY:
        valkey: Valkey = request.getfixturevalue("valkey")
        return shared_url(valkey)
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.url(cluster.new_user())


@pytest.fixture
async def stores(kind: str, url: str) -> AsyncIterator[Stores]:
    async with open_stores(url, leased=kind == LEASED) as opened:
        yield opened
