"""What the pipeline asks of an MCP server behind it, whether reached over HTTP or as a child process.

Stdio servers and those of the old HTTP+SSE transport are made to look like Streamable HTTP ones, so that forwarding
exists once: a request is answered as JSON, or as events when something precedes the response; a notification, and the
client's response to a request of the server's, is accepted with 202; GET opens the stream of what belongs to no call.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from twogate.core.message import Message
from twogate.core.principal import PrincipalKey

if TYPE_CHECKING:
    from twogate.flows.gateway.admit import Admitted


_BY_REQUEST: Final = frozenset({"notifications/cancelled", "notifications/progress"})


class UpstreamRequest(msgspec.Struct, frozen=True):
    """One message on its way to an MCP server.

    `owner` keys everything that may carry state between calls (child processes, upstream sessions). `headers` are the
    complete MCP headers in lower case (content type, accept, `mcp-*`), made by us, never copied from the caller.
    `body` is `message` re-encoded. `modern` says that the protocol version is stateless (2026-07-28 or later).
    `timeout` is in seconds, for the first byte of the answer and between later ones. `session` is the upstream's own
    session id, which `headers` hold too. A `stream` is long-lived (GET, `subscriptions/listen`): it may be silent for
    ever once its head is there, and takes no place in a pool of calls. `admitted` is the call that both gates let
    through; None where Twogate itself asks.
    """

    owner: PrincipalKey
    http_method: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    message: Message | None
    modern: bool
    timeout: float
    session: str | None = None
    stream: bool = False
    admitted: Admitted | None = None

    @property
    def unattributed(self) -> bool:
        """Whether it cancels a request, or tells of its progress, by an id that no session says whose it is.

        Clients count from the same numbers, so a server that keeps no sessions may take one's request for another's.
        Such a client ends a request by closing its answer (MCP 2026-07-28, "Cancellation"), and Twogate then does too.
        """
        return self.session is None and self.message is not None and self.message.method in _BY_REQUEST

    def __repr__(self) -> str:
        """Neither headers nor body: a credential may be among them."""
        return f"UpstreamRequest({self.http_method}, {self.owner!r})"


class UpstreamAnswer(Protocol):
    """An answer whose head has arrived. Always closed by the pipeline; closing early aborts the exchange."""

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def content_type(self) -> str:
        """The media type in lower case without parameters, or empty."""
        ...

    @property
    def session_id(self) -> str | None:
        """The upstream's `Mcp-Session-Id`, if it set one."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, with back-pressure.

        Raises:
            GateError: UPSTREAM_BROKEN, UPSTREAM_TIMEOUT, UPSTREAM_INVALID.
        """
        ...

    async def aclose(self) -> None:
        """Release the exchange; idempotent. Aborts it if the body was not read to its end."""
        ...


class Upstream(Protocol):
    """One configured MCP server."""

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        """Send one message and return once the answer's head has arrived.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE (nothing was sent), UPSTREAM_TIMEOUT, UPSTREAM_BROKEN, UPSTREAM_INVALID;
                SECRET_UNAVAILABLE (nothing was sent) if the server wants a credential that the tenant lacks.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection and end every child process of this server."""
        ...
