from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from contracts.stores import KINDS, Stores, open_stores, url_of


@pytest.fixture(params=KINDS)
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    async with open_stores(url_of(request.param, tmp_path)) as opened:
        yield opened
