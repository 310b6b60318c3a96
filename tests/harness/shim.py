"""Puts a credential on every request of a client that cannot send one, and changes nothing else of it.

The conformance suite has no option for headers, so this stands between it and the gateway. Each connection carries one
request: its head is rewritten line by line, without being parsed and written anew, and all other bytes pass as they
come, so that streams flow both ways and the gateway judges blanks and odd lines as the suite sent them. A client that
goes away takes the connection to the gateway with it.

`Host` and `Origin` that name the shim are made to name the gateway, as a client's would that talked to it directly. Any
other passes as it came: the gateway must refuse it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

MAX_HEAD = 64 * 1024
_PIECE = 64 * 1024


@asynccontextmanager
async def injecting(target: str, token: str, *, trust: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve until the block ends; the origin under which clients reach `target` (an origin too) with the token."""
    under_way: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        under_way[writer] = asyncio.current_task()
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await _carry(reader, writer, target, token, trust)
        finally:
            writer.close()
            del under_way[writer]

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=MAX_HEAD)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{host}:{port}"
    finally:
        server.close()
        tasks = [task for task in under_way.values() if task is not None]
        for writer in under_way:
            writer.transport.abort()
        await asyncio.gather(*tasks)


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, token: str, trust: ssl.SSLContext | None
) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    to = urlsplit(target)
    assert to.hostname is not None
    host, port = writer.get_extra_info("sockname")[:2]
    upstream_reader, upstream_writer = await asyncio.open_connection(to.hostname, to.port, ssl=trust)
    try:
        upstream_writer.write(rewritten(head, f"{host}:{port}", to.netloc, to.scheme, token))
        ways = {
            asyncio.ensure_future(_pump(reader, upstream_writer)),
            asyncio.ensure_future(_pump(upstream_reader, writer)),
        }
        # Whoever ends first ends both: an answer is complete, or the client went away.
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
    finally:
        upstream_writer.close()


def rewritten(head: bytes, shim: str, gateway: str, scheme: str, token: str) -> bytes:
    """The head with the credential and one request a connection; Host and Origin as the module says."""
    request_line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    here, there = shim.encode(), gateway.encode()
    kept = [request_line]
    for line in lines:
        name, _, value = line.partition(b":")
        match name.lower(), value.strip():
            case b"connection", _:
                continue
            case b"host", named if named == here:
                kept.append(line.replace(here, there))
            case b"origin", named if named == b"http://" + here:
                kept.append(line.replace(named, scheme.encode() + b"://" + there))
            case _:
                kept.append(line)
    kept += [f"Authorization: Bearer {token}".encode(), b"Connection: close"]
    return b"\r\n".join(kept) + b"\r\n\r\n"


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError, ssl.SSLError):
        while piece := await reader.read(_PIECE):
            writer.write(piece)
            await writer.drain()
