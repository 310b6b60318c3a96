"""How a server that knows the handshake era only answered `server/discover`, kept for who asks the same again.

Clients that speak both eras ask with each connection (MCP 2026-07-28, "Backward Compatibility"). An answer serves the
one principal whose server gave it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from twogate.adapters.upstream.duplex_mailbox import FixedAnswer
from twogate.core.errors import UNAVAILABLE, UNSUPPORTED_PROTOCOL_VERSION
from twogate.core.message import Kind, Message, encode_message, parse_answer
from twogate.flows.gateway.upstream import UpstreamAnswer

DISCOVER: Final = "server/discover"

MAX_KEPT: Final = 4096
"""Bytes that a request's parameters, and the answer to it, may have to be kept."""

_INTERNAL_ERROR: Final = -32603  # JSON-RPC 2.0, section 5.1
# What a modern server says to this one request, or just now.
_NO_REFUSALS: Final = frozenset({UNSUPPORTED_PROTOCOL_VERSION, _INTERNAL_ERROR, UNAVAILABLE})


class Refusal(msgspec.Struct, frozen=True):
    """The error that a server answered `server/discover` with. `until` is on the monotonic clock, in seconds."""

    params: Mapping[str, Any]
    error: Mapping[str, Any]
    until: float

    def again(self, message: Message, now: float) -> UpstreamAnswer | None:
        """The same answer for the same question; None for another one, and when it is too old."""
        if now >= self.until or message.params != self.params:
            return None
        answer = Message(Kind.RESPONSE, message.id, "", {}, dict(self.error), is_error=True)
        return FixedAnswer(200, encode_message(answer), "application/json")


def refusal_of(message: Message, answer: UpstreamAnswer, *, until: float) -> Refusal | None:
    """What is to be kept of the answer to a `server/discover`; None unless the server does not know the request."""
    if not isinstance(answer, FixedAnswer) or len(answer.body) > MAX_KEPT or len(encode_message(message)) > MAX_KEPT:
        return None
    response = parse_answer(answer.body)
    if not response.is_error or response.payload["code"] in _NO_REFUSALS:
        return None
    return Refusal(message.params, response.payload, until)
