"""JSON-RPC batches (MCP 2025-03-26 alone): each member goes its own way through gate two, one after the other.

The answer is a 200 with an array; a member that was refused has its error in it. Nothing that a server sends besides
its responses reaches the client of a batch.
"""

from __future__ import annotations

from typing import Final

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Message, encode_error
from twogate.flows.gateway.exchange import Exchange, Header, Refusal
from twogate.flows.gateway.read import CallError

_JSON: Final[tuple[Header, ...]] = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))


def alone(member: Message | GateError) -> Message | GateError:
    """The member, if it may stand in a batch at all."""
    if isinstance(member, Message) and member.method == "initialize":
        # MCP 2025-03-26, "Initialization": "The initialize request MUST NOT be part of a JSON-RPC batch".
        return CallError(GateError(ErrorCode.INVALID_REQUEST, "initialize in a batch"), member)
    return member


class BatchExchange:
    """The answers to a batch's members as one array; each member is answered through `member`."""

    def __init__(self, outer: Exchange) -> None:
        self._outer = outer
        self._begun = False

    def member(self) -> Exchange:
        """The exchange of the next member."""
        return _MemberExchange(self)

    async def finish(self) -> None:
        """End the answer: 202 if no member has one, as for a single notification."""
        if self._begun:
            await self._outer.send(b"]", more=False)
        else:
            await self._outer.start(202, (), length=0)
            await self._outer.send(b"", more=False)

    async def begin(self) -> None:
        """Begin one member's answer."""
        if self._begun:
            await self._outer.send(b",", more=True)
        else:
            self._begun = True
            await self._outer.start(200, _JSON, length=None)
            await self._outer.send(b"[", more=True)

    async def send(self, chunk: bytes) -> None:
        """Send a piece of a member's answer."""
        await self._outer.send(chunk, more=True)

    async def abort(self) -> None:
        """Break the whole answer off."""
        await self._outer.abort()


class _MemberExchange:
    """One member's exchange; implements `Exchange`."""

    events = False

    def __init__(self, batch: BatchExchange) -> None:
        self._batch = batch
        self._shown = False

    async def read_body(self, limit: int) -> bytes:
        raise GateError(ErrorCode.INTERNAL, f"a member of a batch has no body of its own ({limit})")

    def forwarding(self) -> None:
        pass

    async def refuse(self, refusal: Refusal) -> None:
        # JSON-RPC 2.0 section 6: a notification gets no answer, not even an error.
        if refusal.notification:
            return
        await self._batch.begin()
        error = refusal.error
        await self._batch.send(encode_error(refusal.request_id, error.code, error.data))

    async def start(self, status: int, headers: tuple[Header, ...], *, length: int | None) -> None:
        del headers, length
        self._shown = status not in (202, 204)
        if self._shown:
            await self._batch.begin()

    async def send(self, chunk: bytes, *, more: bool) -> None:
        del more
        if self._shown and chunk:
            await self._batch.send(chunk)

    async def abort(self) -> None:
        await self._batch.abort()
