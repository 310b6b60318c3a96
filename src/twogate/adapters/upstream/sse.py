"""An MCP server of the HTTP+SSE transport of 2024-11-05 as an upstream: a stream for each principal and session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from twogate.adapters.upstream.duplex import DuplexUpstream
from twogate.adapters.upstream.duplex_mailbox import FixedAnswer
from twogate.adapters.upstream.http_origin import Header, HttpOrigin
from twogate.adapters.upstream.http_pool import HttpPool, HttpUpstreamLimits
from twogate.adapters.upstream.sse_channel import SseChannel, SseLimits
from twogate.core.errors import UNSUPPORTED_PROTOCOL_VERSION
from twogate.core.message import Kind, Message, encode_message
from twogate.core.principal import PrincipalKey
from twogate.core.protocol import HANDSHAKE_VERSIONS, MODERN_VERSIONS
from twogate.flows.environment import Clock
from twogate.flows.gateway.upstream import UpstreamAnswer, UpstreamRequest

__all__ = ["SseLimits", "SseUpstream"]

_NO_SUCH_VERSION: Final = {
    "code": UNSUPPORTED_PROTOCOL_VERSION,
    "message": "Unsupported protocol version",
    "data": {"supported": list(HANDSHAKE_VERSIONS), "requested": MODERN_VERSIONS[-1]},
}


class SseUpstream(DuplexUpstream):
    """Implements `flows.gateway.upstream.Upstream` over HTTP+SSE. The arguments are those of `HttpOrigin`.

    `log` takes the server's name and a line. `credential` makes the header that a tenant's requests bring, each anew.

    Raises:
        ValueError, OSError: as `HttpOrigin`.
    """

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        log: Callable[[str, str], None],
        ca_file: Path | None = None,
        limits: SseLimits | None = None,
        extra_headers: tuple[Header, ...] = (),
        name: str = "",
        credential: Callable[[str], Awaitable[Header]] | None = None,
    ) -> None:
        origin = HttpOrigin(url, ca_file, extra_headers)
        bounds = limits or SseLimits()
        self._pools = pools = dict[str, HttpPool]()
        """By tenant: some servers hold a post until its call is done, and so many are one tenant's own matter."""

        async def connect(owner: PrincipalKey) -> SseChannel:
            if owner.tenant not in pools:
                pools[owner.tenant] = origin.pool(HttpUpstreamLimits(streams=bounds.links))
            return await SseChannel.open(origin, pools[owner.tenant], bounds, _of(owner.tenant, credential))

        super().__init__(
            connect,
            limits=bounds,
            clock=clock,
            log=lambda line: log(name or origin.host, line),
        )

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        """Send one message; see `DuplexUpstream.send`. The stateless era does not exist on this transport.

        Raises:
            GateError: as `DuplexUpstream.send`.
        """
        message = request.message
        if request.modern and request.http_method == "POST" and message is not None and message.kind is Kind.REQUEST:
            # What makes a client that knows both eras shake hands instead (MCP 2026-07-28, "Versioning").
            refusal = Message(Kind.RESPONSE, message.id, "", {}, _NO_SUCH_VERSION, is_error=True)
            return FixedAnswer(400, encode_message(refusal), "application/json")
        return await super().send(request)

    async def aclose(self) -> None:
        """End every link and close every connection."""
        # Together, so that a link that is still waiting for its server to say something ends too.
        await asyncio.gather(super().aclose(), *(pool.aclose() for pool in self._pools.values()))


def _of(tenant: str, credential: Callable[[str], Awaitable[Header]] | None) -> Callable[[], Awaitable[Header]] | None:
    return None if credential is None else lambda: credential(tenant)
