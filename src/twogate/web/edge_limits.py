"""What one HTTP connection may cost before anybody has been authenticated."""

from __future__ import annotations

from typing import Final

import msgspec

KIB: Final = 1024
MIB: Final = 1024 * KIB


class EdgeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Caps and deadlines of the HTTP edge; sizes in bytes, times in seconds.

    Raises:
        ValueError: A cap or deadline that is not positive.
    """

    max_head_bytes: int = 32 * KIB
    """Request line and all headers together; more is 431."""
    max_headers: int = 100
    """Header lines of one request; more is 431."""
    max_header_value_bytes: int = 16 * KIB
    """One header value; more is 431."""
    max_target_bytes: int = 8 * KIB
    """The request target; more is 414."""
    max_body_bytes: int = 4 * MIB + 64 * KIB
    """The body, declared or counted in chunks; more is 413. Endpoints have smaller caps of their own."""
    max_chunks: int = 16_384
    """Chunks of one body, since each costs CPU however small it is; more is 413."""
    max_ahead_bytes: int = 512 * KIB
    """Bytes of pipelined requests held unread while an answer is under way; more ends the connection."""
    max_connections: int = 10_000
    """Open connections in all; more are answered 503."""
    max_connections_per_address: int = 1_000
    """Open connections from one IPv4 address or IPv6 /64; more are answered 503. Not for Unix sockets."""
    first_byte_seconds: float = 10.0
    """From connecting to the first byte."""
    head_seconds: float = 10.0
    """From a request's first byte to the end of its headers; later is 408."""
    body_seconds: float = 30.0
    """From the end of the headers to the end of the body, not counting time in which nobody reads it; later is 408."""
    idle_seconds: float = 75.0
    """Between an answer and the next request."""
    stalled_write_seconds: float = 60.0
    """How long a client may leave an answer unread."""
    linger_seconds: float = 2.0
    """How long input is read and thrown away after a refusal, so that the client can read the answer (RFC 9112
    section 9.6)."""
    handshake_seconds: float = 10.0
    """From connecting to the end of the TLS handshake."""
    drain_seconds: int = 10
    """How long running requests may take to end after the stop signal."""
    sweep_seconds: float = 1.0
    """How often deadlines are looked at; every deadline may be met this much late."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) <= 0:
                raise ValueError(f"EdgeLimits.{name} must be positive")
