"""Under which address a request's sender is counted and recorded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

UNIX_PEER: Final = "unix"
"""Stands for the peers of a Unix socket: they have no address of their own, and share one."""


def peer_address(scope: Mapping[str, Any]) -> str:
    """The address of an ASGI request's peer. Forwarded headers are never looked at."""
    client = scope.get("client")
    return client[0] if client else UNIX_PEER
