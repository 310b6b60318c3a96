"""The MCP headers of a request: checked against the body on the way in, written anew from it on the way out.

An intermediary that routes on a header must see what the server will run (MCP 2026-07-28, "Streamable HTTP": a server
that reads the body refuses headers that disagree with it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from twogate.core import errors
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message
from twogate.core.protocol import ASSUMED_VERSION, HANDSHAKE_VERSIONS, MODERN_VERSIONS, VERSIONS
from twogate.flows.gateway.exchange import Header
from twogate.flows.gateway.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    InboundLadderRejection,
    classify_inbound_request,
    decode_header_value,
    encode_header_value,
)
from twogate.flows.gateway.meta import CLIENT_CAPABILITIES, PROTOCOL_VERSION

MAX_UPSTREAM_SESSION: Final = 1024
MCP_SESSION_ID_HEADER: Final = "mcp-session-id"

# MCP 2025-03-26, "Session Management": "MUST only contain visible ASCII characters".
_SESSION_ID: Final = re.compile(r"[\x21-\x7e]+")
_EVENT_ID: Final = re.compile(r"[\x20-\x7e]{0,1024}")
_TASK_PREFIX: Final = "tasks/"


def resumable(event_id: str) -> bool:
    """Whether a server's event id can come back to it in `Last-Event-ID`."""
    return _EVENT_ID.fullmatch(event_id) is not None


def check_headers(message: Message, headers: Mapping[str, str], assumed: str = ASSUMED_VERSION) -> str:
    """Return the protocol version in force for a message, once its headers agree with its body.

    `headers` are in lower case and free of repeated `Mcp-*` names (the HTTP edge sees to both). `assumed` is the
    version of a message that names none.

    1. The era: modern if the version header or the body's envelope says so, else handshake. 2. Modern: the envelope,
    the version, method and name headers. 3. Handshake: a known version or none; `initialize` names its own. 4. Both:
    no `Mcp-Method` or `Mcp-Name` that says anything but what the body says.

    Raises:
        GateError: HEADER_MISMATCH, INVALID_PARAMS, INVALID_REQUEST, UNSUPPORTED_PROTOCOL_VERSION.
    """
    version = headers.get(MCP_PROTOCOL_VERSION_HEADER)
    # 1.
    if version in MODERN_VERSIONS or PROTOCOL_VERSION in message.params.get("_meta", ()):
        version = _modern_version(message, version, headers)  # 2.
    else:
        version = _handshake_version(message, version, assumed)  # 3.
    # 4.
    method = headers.get(MCP_METHOD_HEADER)
    if method is not None and method != message.method:
        raise GateError(ErrorCode.HEADER_MISMATCH, "mcp-method")
    name = headers.get(MCP_NAME_HEADER)
    # A method that bears no name takes no header; neither does None, from a malformed one, ever match.
    if name is not None and (decode_header_value(name) or None) != _name_of(message):
        raise GateError(ErrorCode.HEADER_MISMATCH, "mcp-name")
    return version


def _modern_version(message: Message, version: str | None, headers: Mapping[str, str]) -> str:
    if message.kind is Kind.RESPONSE:
        # This era has no requests of the server's that a client could answer.
        raise GateError(ErrorCode.INVALID_REQUEST, "a response on a version without server requests")
    meta = cast("dict[str, Any]", message.params.get("_meta", {}))
    if message.kind is Kind.NOTIFICATION:
        # Notifications need no envelope; one that has it must not contradict itself.
        if version is None or meta.get(PROTOCOL_VERSION, version) != version:
            raise GateError(ErrorCode.HEADER_MISMATCH, MCP_PROTOCOL_VERSION_HEADER)
        if version not in MODERN_VERSIONS:
            raise _no_envelope_in(version)
        return version
    verdict = classify_inbound_request(
        {"method": message.method, "params": message.params}, headers=headers, supported_modern_versions=MODERN_VERSIONS
    )
    if isinstance(verdict, InboundLadderRejection):
        if verdict.code == errors.UNSUPPORTED_PROTOCOL_VERSION:
            raise _no_envelope_in(meta[PROTOCOL_VERSION])
        code = ErrorCode.HEADER_MISMATCH if verdict.code == errors.HEADER_MISMATCH else ErrorCode.INVALID_PARAMS
        raise GateError(code, verdict.message)
    if not isinstance(verdict.client_capabilities, dict):
        raise GateError(ErrorCode.INVALID_PARAMS, f"_meta {CLIENT_CAPABILITIES} is not an object")
    return verdict.protocol_version


def check_handshake_version(version: str | None) -> str | None:
    """Return the version of a header that may be missing.

    Raises:
        GateError: UNSUPPORTED_PROTOCOL_VERSION.
    """
    if version is not None and version not in HANDSHAKE_VERSIONS:
        raise _unsupported(version)
    return version


def _handshake_version(message: Message, version: str | None, assumed: str) -> str:
    version = check_handshake_version(version)
    if message.method != "initialize":
        return version or assumed
    wanted: object = message.params.get("protocolVersion")
    if not isinstance(wanted, str):
        raise GateError(ErrorCode.INVALID_PARAMS, "params.protocolVersion is not a string")
    if not isinstance(message.params.get("capabilities", {}), dict):
        raise GateError(ErrorCode.INVALID_PARAMS, "params.capabilities is not an object")
    # The server answers an unknown version with the newest it has (MCP 2025-11-25, "Version Negotiation").
    return wanted if wanted in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1]


def _no_envelope_in(version: str) -> GateError:
    if version in HANDSHAKE_VERSIONS:
        return GateError(ErrorCode.INVALID_PARAMS, "an envelope that names a version without envelopes")
    # Only a version with an envelope could have been meant.
    return _unsupported(version, MODERN_VERSIONS)


def _unsupported(requested: str, supported: tuple[str, ...] = VERSIONS) -> GateError:
    return GateError(
        ErrorCode.UNSUPPORTED_PROTOCOL_VERSION, data={"supported": list(supported), "requested": requested[:64]}
    )


def _name_of(message: Message) -> str:
    # What `Mcp-Name` mirrors; empty for a method that bears no name.
    key = NAME_BEARING_METHODS.get(message.method)
    if key is None and message.method.startswith(_TASK_PREFIX):
        key = "taskId"
    name: object = message.params.get(key) if key is not None else None
    return name if isinstance(name, str) else ""


def upstream_headers(
    message: Message | None,
    version: str,
    upstream_session: str | None = None,
    params: Iterable[Header] = (),
    last_event: str | None = None,
) -> tuple[Header, ...]:
    """Every MCP header that goes upstream, from the parsed message alone; `params` come from `param_headers`.

    Without a message (GET, DELETE) there is no content type. `last_event` is the upstream's own id of the event after
    which a stream goes on. `Mcp-Method`, `Mcp-Name` and `Mcp-Param-*` belong to
    modern versions, `Mcp-Session-Id` to handshake ones.

    Raises:
        GateError: UPSTREAM_INVALID (the upstream's own session id is no header value).
    """
    if message is None:
        made: list[Header] = [(b"accept", b"text/event-stream")]
    else:
        made = [(b"content-type", b"application/json"), (b"accept", b"application/json, text/event-stream")]
    if message is None or message.method != "initialize":
        made.append((MCP_PROTOCOL_VERSION_HEADER.encode(), version.encode()))
    if version in MODERN_VERSIONS:
        if message is not None and message.method:
            made.append((MCP_METHOD_HEADER.encode(), encode_header_value(message.method).encode()))
            if name := _name_of(message):
                made.append((MCP_NAME_HEADER.encode(), encode_header_value(name).encode()))
        made += params
    elif upstream_session is not None:
        if len(upstream_session) > MAX_UPSTREAM_SESSION or not _SESSION_ID.fullmatch(upstream_session):
            raise GateError(ErrorCode.UPSTREAM_INVALID, "the upstream's session id is not visible ASCII")
        made.append((MCP_SESSION_ID_HEADER.encode(), upstream_session.encode()))
    if last_event is not None:
        if not resumable(last_event):
            raise GateError(ErrorCode.UPSTREAM_INVALID, "the upstream's event id is no header value")
        made.append((b"last-event-id", last_event.encode()))
    return tuple(made)
