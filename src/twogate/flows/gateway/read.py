"""The body, after gate one: bytes to one message whose headers agree with it (row R-44)."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message, parse_message
from twogate.core.principal import Principal
from twogate.core.protocol import ASSUMED_VERSION, MODERN_VERSIONS, MethodKind, method_kind
from twogate.flows.gateway.exchange import Exchange, Head
from twogate.flows.gateway.headers import Header, check_headers, param_headers
from twogate.flows.gateway.upstream_session import UpstreamSessions

SESSION_END = "DELETE"
"""Stands for the method of an HTTP DELETE in the audit trail."""


class Authenticated(msgspec.Struct, frozen=True):
    """A request whose caller gate one proved."""

    head: Head
    principal: Principal


class Call(msgspec.Struct, frozen=True):
    """A request with its one message, parsed and in agreement with its headers."""

    head: Head
    principal: Principal
    message: Message
    version: str
    kind: MethodKind
    upstream_session: str | None = None
    param_headers: tuple[Header, ...] = ()

    @property
    def modern(self) -> bool:
        """Whether the protocol version is a stateless one."""
        return self.version in MODERN_VERSIONS


async def read_call(authenticated: Authenticated, exchange: Exchange, sealed: UpstreamSessions, max_body: int) -> Call:
    """Read and parse the body, compare it with the headers, open the `Mcp-Session-Id`.

    Raises:
        GateError: any code about the message; a `CallError` where the message itself could be read.
    """
    head = authenticated.head
    _check_negotiation(head)
    message = parse_message(await exchange.read_body(max_body), max_bytes=max_body)
    try:
        if message.kind is Kind.RESPONSE:
            # Servers may not ask clients anything yet, so there is nothing that a client could be answering.
            raise GateError(ErrorCode.METHOD_NOT_PERMITTED, "a response, but no request to this client is open")
        version = check_headers(message, head.headers)
        kind = method_kind(version, message.method)
        if kind is None:
            raise GateError(ErrorCode.METHOD_NOT_FOUND, f"no method {message.method!r} in {version}")
        session = open_session(authenticated, sealed)
        params = param_headers(message, version, head.headers)
    except GateError as error:
        raise CallError(error, message) from error
    return Call(head, authenticated.principal, message, version, kind, session, params)


def read_session_end(authenticated: Authenticated, sealed: UpstreamSessions) -> Call:
    """The end of an MCP session (HTTP DELETE, Streamable HTTP up to 2025-11-25) as a call without a message of its own.

    Raises:
        GateError: METHOD_NOT_ALLOWED without a session to end, MCP_SESSION_UNKNOWN.
    """
    session = open_session(authenticated, sealed)
    if session is None:
        raise GateError(ErrorCode.METHOD_NOT_ALLOWED, "DELETE without Mcp-Session-Id")
    message = Message(Kind.NOTIFICATION, None, SESSION_END, {})
    return Call(authenticated.head, authenticated.principal, message, ASSUMED_VERSION, MethodKind.OPEN, session)


def open_session(authenticated: Authenticated, sealed: UpstreamSessions) -> str | None:
    """The upstream's session id behind the `Mcp-Session-Id` that this principal presents, if it presents one.

    Raises:
        GateError: MCP_SESSION_UNKNOWN.
    """
    presented = authenticated.head.headers.get("mcp-session-id")
    if presented is None:
        return None
    return sealed.open(presented, authenticated.principal.key, authenticated.head.server)


class CallError(GateError):
    """A refusal of a message that could be parsed, so that the answer can carry its id."""

    def __init__(self, error: GateError, message: Message) -> None:
        super().__init__(error.code, error.debug, data=error.data)
        self.message = message


def _check_negotiation(head: Head) -> None:
    if not _is_json(head.headers.get("content-type", "")):
        raise GateError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "content-type")
    if not _accepts_both(head.headers.get("accept", "*/*")):
        raise GateError(ErrorCode.NOT_ACCEPTABLE, "accept")


# Clients send the same few values with every call.
@lru_cache(maxsize=64)
def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"


@lru_cache(maxsize=64)
def _accepts_both(accept: str) -> bool:
    # MCP, transports: "The client MUST include an Accept header, listing both …".
    accepted = {item.partition(";")[0].strip().lower() for item in accept.split(",")}
    return "*/*" in accepted or {"application/json", "text/event-stream"} <= accepted
