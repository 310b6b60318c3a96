"""The servers that nobody here wrote, started once for a file, and one gateway in front of them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from peers.servers import (
    EVERYTHING,
    REFERENCE_SERVERS,
    REFERENCE_TARGETS,
    World,
    behind,
    everything_server,
    everything_targets,
    reference_command,
    reference_server,
)


@pytest.fixture(scope="module")
def everything() -> Iterator[str]:
    """The URL of the everything-server itself."""
    with everything_server() as url:
        yield url


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, everything: str) -> Iterator[World]:
    """A gateway in front of `everything` and the reference server over each transport that it knows."""
    with reference_server("streamableHttp") as http, reference_server("sse") as sse:
        servers = {
            EVERYTHING: {"url": everything},
            "reference": {"url": http},
            "reference-sse": {"url": sse, "transport": "sse"},
            "reference-stdio": {"command": reference_command()},
        }
        reads = {EVERYTHING: everything_targets(everything), **dict.fromkeys(REFERENCE_SERVERS, REFERENCE_TARGETS)}
        with behind(tmp_path_factory.mktemp("twogate"), servers, reads) as made:
            yield made
