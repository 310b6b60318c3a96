"""An MCP server reached over Streamable HTTP; implements `flows.gateway.upstream.Upstream`."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Final

from twogate.adapters.upstream.http_answer import HttpAnswer
from twogate.adapters.upstream.http_origin import Header, HttpOrigin
from twogate.adapters.upstream.http_pool import HttpUpstreamLimits
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.upstream import UpstreamRequest

__all__ = ["HttpUpstream", "HttpUpstreamLimits"]

_METHODS: Final = ("POST", "GET", "DELETE")


class HttpUpstream:
    """One MCP server, reached over HTTP. The arguments are those of `HttpOrigin`, and bounds for its connections.

    Raises:
        ValueError, OSError: as `HttpOrigin`.
    """

    def __init__(
        self,
        url: str,
        *,
        ca_file: Path | None = None,
        limits: HttpUpstreamLimits | None = None,
        extra_headers: tuple[Header, ...] = (),
    ) -> None:
        self._origin = origin = HttpOrigin(url, ca_file, extra_headers)
        self._limits = limits or HttpUpstreamLimits()
        self._heads = {method: origin.head(method) for method in _METHODS}
        self._pool = origin.pool(self._limits)

    def apart(self) -> HttpUpstream:
        """The same server over connections of its own."""
        other = copy(self)
        other._pool = self._origin.pool(self._limits)  # noqa: SLF001 - one of this class
        return other

    async def send(self, request: UpstreamRequest) -> HttpAnswer:
        """Send one message and return once the answer's head has arrived; see `Upstream.send`.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE (nothing was sent), UPSTREAM_TIMEOUT, UPSTREAM_BROKEN, UPSTREAM_INVALID,
                INTERNAL for a header value with a line break.
        """
        encoded = self._encode(request)
        if request.stream:
            return await self._pool.open_stream(encoded, request.timeout)
        return await self._pool.send(encoded, request.timeout)

    async def aclose(self) -> None:
        """Close every connection and wait until they are gone; running exchanges fail with UPSTREAM_BROKEN."""
        await self._pool.aclose()

    def _encode(self, request: UpstreamRequest) -> bytes:
        block = b"".join([b"%b: %b\r\n" % header for header in request.headers])
        count = len(request.headers)
        # One line per header and no line more, so that no value can add a header or a second request.
        if block.count(b"\r") != count or block.count(b"\n") != count:
            raise GateError(ErrorCode.INTERNAL, "a header for the upstream holds a line break")
        body = request.body
        if body or request.http_method == "POST":
            return b"%b%bcontent-length: %d\r\n\r\n%b" % (self._heads[request.http_method], block, len(body), body)
        return b"%b%b\r\n" % (self._heads[request.http_method], block)
