"""A TLS front for a server on a Unix socket that speaks PostgreSQL's way of starting TLS, for a build without it."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from twogate.core.pki.issue import Validity, issue_authority, issue_server_certificate

SSL_REQUEST = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"
"""PostgreSQL's documentation, Message Formats, SSLRequest."""


@dataclass
class Relay:
    """Where it listens, and what it got before TLS."""

    port: int
    plain: list[bytes] = field(default_factory=list[bytes])


def make_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """A CA and, issued by it, a certificate with its key for a host; the files of both."""
    directory.mkdir(exist_ok=True)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = int(dt.datetime.now(dt.UTC).timestamp())
    validity = Validity(now - 60, now + 3600)
    authority = issue_authority(authority_key, "Test CA", 1, validity, [name])
    certificate = issue_server_certificate(authority, authority_key, key.public_key(), [name], 2, validity)
    ca, server = directory / "ca.pem", directory / "server.pem"
    pem = serialization.Encoding.PEM
    ca.write_bytes(authority.public_bytes(pem))
    server.write_bytes(
        certificate.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return ca, server


@asynccontextmanager
async def relaying(socket: Path, server: Path | None) -> AsyncIterator[Relay]:
    """Relay a TCP port to a Unix socket, behind TLS; without a certificate it says that it has no TLS."""
    context = None
    if server is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server)
    relay = Relay(0)
    running: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                await _serve(reader, writer, socket, context, relay)
        finally:
            writer.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    relay.port = listening.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        listening.close()
        # Every connection ends with its client.
        async with asyncio.timeout(30):
            await asyncio.gather(*running)


@asynccontextmanager
async def terminating(port: int, server: Path) -> AsyncIterator[int]:
    """A TLS front for a server on a loopback port that speaks none; the port of the front."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)
    running: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", port)
            try:
                with suppress(OSError):
                    await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))
            finally:
                to_server.close()
        finally:
            writer.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        async with asyncio.timeout(30):
            await asyncio.gather(*running)


async def _serve(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    socket: Path,
    context: ssl.SSLContext | None,
    relay: Relay,
) -> None:
    first = await reader.readexactly(len(SSL_REQUEST))
    relay.plain.append(first)
    if first != SSL_REQUEST:
        return
    writer.write(b"N" if context is None else b"S")
    await writer.drain()
    if context is None:
        relay.plain.append(await reader.read())
        return
    await writer.start_tls(context)
    from_server, to_server = await asyncio.open_unix_connection(socket)
    try:
        await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))
    finally:
        to_server.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    target.close()
