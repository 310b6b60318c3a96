"""What a client settled by `initialize`, as a session id that holds all of it.

A link can so be started again with the very same handshake after it was ended, here or at another replica. The gateway
seals the id before a client sees it; who presents it is the principal that it was made for.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Message
from twogate.core.protocol import HANDSHAKE_VERSIONS

MAX_SESSION: Final = 1024
"""Characters of a session id."""

# What a client may do without, if it declares too much for a session id.
_DISPENSABLE: Final = frozenset({"experimental", "extensions"})
_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_DECODER: Final = msgspec.json.Decoder(tuple[str, dict[str, Any]])


class ClientSession(msgspec.Struct, frozen=True):
    """The protocol version that a client asked for, and the capabilities that the server is told of."""

    id: str
    version: str
    capabilities: Mapping[str, Any]


def session_of(initialize: Message) -> ClientSession:
    """The session that a client's `initialize` begins; equal ones have equal ids.

    Raises:
        GateError: INVALID_PARAMS for capabilities that are too large.
    """
    wanted: object = initialize.params.get("protocolVersion")
    version = wanted if isinstance(wanted, str) and wanted in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1]
    declared: object = initialize.params.get("capabilities")
    capabilities = cast("dict[str, Any]", declared) if isinstance(declared, dict) else {}
    encoded = _encode(version, capabilities)
    if len(encoded) > MAX_SESSION:
        capabilities = {name: value for name, value in capabilities.items() if name not in _DISPENSABLE}
        encoded = _encode(version, capabilities)
    if len(encoded) > MAX_SESSION:
        raise GateError(ErrorCode.INVALID_PARAMS, "the client's capabilities are too large for a session id")
    return ClientSession(encoded, version, capabilities)


def parse_session(text: str) -> ClientSession:
    """The session with this id.

    Raises:
        GateError: MCP_SESSION_UNKNOWN; for example the id of a server that had this name before.
    """
    unknown = GateError(ErrorCode.MCP_SESSION_UNKNOWN, "not a session id of this kind of server")
    if len(text) > MAX_SESSION:
        raise unknown
    try:
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        version, capabilities = _DECODER.decode(raw)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors too
        raise unknown from error
    # Two spellings of one session would be two processes.
    if version not in HANDSHAKE_VERSIONS or _encode(version, capabilities) != text:
        raise unknown
    return ClientSession(text, version, capabilities)


def _encode(version: str, capabilities: Mapping[str, Any]) -> str:
    return urlsafe_b64encode(_ENCODER.encode((version, capabilities))).decode().rstrip("=")
