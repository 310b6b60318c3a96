"""The HTTP exchange as the pipeline sees it: a parsed head, a body to read, and a sink for the answer.

The pipeline knows neither ASGI nor sockets; `web/gateway.py` brings both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from twogate.core.errors import GateError
from twogate.core.oauth.confirmation import ClientCertificate

Header = tuple[bytes, bytes]

JSON_ANSWER: Final[tuple[Header, ...]] = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
EVENT_ANSWER: Final[tuple[Header, ...]] = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
)


class Head(msgspec.Struct, frozen=True):
    """A request's head. Header names are in lower case and each name is there once: the edge saw to it.

    `certificate` is the client's, of the TLS connection; None if it showed none.
    """

    method: str
    server: str
    headers: Mapping[str, str]
    query: bytes
    address: str
    certificate: ClientCertificate | None = None


class Refusal(msgspec.Struct, frozen=True):
    """An answer that says no. `scopes` go into the challenge when a scope would help.

    `notification`: what is refused was a message that expects no answer.
    """

    error: GateError
    request_id: str | int | None = None
    scopes: tuple[str, ...] = ()
    notification: bool = False


class Exchange(Protocol):
    """One request and its answer. Sending waits while the client does not read."""

    @property
    def events(self) -> bool:
        """Whether the answer may be an event stream; if not, it is one JSON message."""
        ...

    async def read_body(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            GateError: TOO_LARGE past `limit` bytes.
        """
        ...

    def forwarding(self) -> None:
        """Told when the call goes upstream: whatever comes now is its answer."""
        ...

    async def refuse(self, refusal: Refusal) -> None:
        """Answer with an error: status, challenge and body by the one table in `web/errors.py`."""
        ...

    async def start(self, status: int, headers: tuple[Header, ...], *, length: int | None) -> None:
        """Send the answer's head; `length` in bytes when the body is complete, None when it streams."""
        ...

    async def send(self, chunk: bytes, *, more: bool) -> None:
        """Send a piece of the body; the last one with `more=False`."""
        ...

    async def abort(self) -> None:
        """Break the connection off: an answer that cannot be completed must not look complete."""
        ...
