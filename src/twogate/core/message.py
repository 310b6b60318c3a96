"""JSON-RPC messages: bytes to a frozen `Message`, strictly, and back (JSON-RPC 2.0; MCP base protocol)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec


class Kind(StrEnum):
    """What a message is, by the members it has."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESPONSE = "response"


class Message(msgspec.Struct, frozen=True):
    """One JSON-RPC message. `params` is empty when absent; `payload` is a response's `result` or `error` object."""

    kind: Kind
    id: str | int | None
    method: str
    params: dict[str, Any]
    payload: Any = None
    is_error: bool = False
