"""Where the real servers are that tests run against, and what happens if one is missing.

On a developer's machine a missing peer skips its tests, with the command that would install it. In CI (`CI=true`) it
fails them: a test that silently stopped running protects nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MCP_SERVER_GIT = Path(sys.executable).parent / "mcp-server-git"
MCP_SERVER_SQLITE = ROOT / ".venv-sqlite" / "bin" / "mcp-server-sqlite"

_INSTALL = {
    MCP_SERVER_GIT: "pip install -r requirements-dev.lock",
    MCP_SERVER_SQLITE: (
        "python3 -m venv .venv-sqlite && "
        ".venv-sqlite/bin/pip install --no-deps --require-hashes -r requirements-sqlite.lock"
    ),
}


def require(peer: Path) -> str:
    """The command of a peer, as text; skips the test, or fails it in CI, if it is not installed."""
    if not peer.is_file():
        reason = f"THE PEER {peer.name} IS MISSING, so nothing was tested against it; install it: {_INSTALL[peer]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return str(peer)
