"""A hardened edge on a free loopback port, with an application behind it that records what it was shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import uvloop

from twogate.adapters.clock import SystemClock
from twogate.config.values import TcpAddress, UnixAddress
from twogate.core.errors import ErrorCode
from twogate.web.edge_limits import EdgeLimits
from twogate.web.listen import serve
from twogate.web.tls import ServerTls, TlsFiles

PATIENCE = 10.0
_CLOCK = SystemClock()
LARGE = 16_000_000
PIECE = 1_000_000
HOST = b"mcp.example.com"

Message = MutableMapping[str, Any]


class RecordingApp:
    """Answers with the body it was sent, and keeps what it saw."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.finished: list[tuple[str, str, bytes]] = []
        self.disconnected: list[str] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.scope: Message = {}
        self.sent_large = threading.Event()

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        path = scope["path"]
        self.started.append(path)
        self.headers = scope["headers"]
        self.scope = scope
        body = b""
        if path != "/early":
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    self.disconnected.append(path)
                    return
                body += message["body"]
                more = message["more_body"]
            self.finished.append((scope["method"], path, body))
        if path == "/hang":
            await receive()
            self.disconnected.append(path)
            return
        if path == "/slow":
            await asyncio.sleep(0.5)
        if path == "/large":
            await self._send_large(send)
            return
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": body})

    async def _send_large(self, send: Callable[[Message], Awaitable[None]]) -> None:
        length = (b"content-length", str(LARGE).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        for sent in range(0, LARGE, PIECE):
            await send({"type": "http.response.body", "body": b"x" * PIECE, "more_body": sent + PIECE < LARGE})
        self.sent_large.set()


class RunningEdge:
    """The edge, seen from a client."""

    def __init__(self, app: RecordingApp, tls: ssl.SSLContext | None) -> None:
        self.app = app
        self.refusals: list[tuple[str, ErrorCode]] = []
        self.url = ""
        self.draining = asyncio.Event()
        self.stop: Callable[[], object] = lambda: None
        """Tells it to end; `draining` is set as soon as it begins to."""
        self.server_tls: ServerTls | None = None
        self._tls = tls

    def connect(self) -> socket.socket:
        if self.url.startswith("unix:"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(PATIENCE)
            sock.connect(self.url.removeprefix("unix:"))
            return sock
        host, _, port = self.url.rpartition("//")[2].rpartition(":")
        plain = socket.create_connection((host, int(port)), timeout=PATIENCE)
        return plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname="localhost")

    def exchange(self, *parts: bytes) -> bytes:
        """Send on a fresh connection, then read until the server closes it."""
        with self.connect() as sock:
            # A server that has refused may have closed its side before the last part is out.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for part in parts:
                    sock.sendall(part)
            return read_to_end(sock)

    def marker(self) -> None:
        """One good request, answered only after everything sent before it was dealt with."""
        with self.connect() as sock:
            sock.sendall(request(b"GET", b"/marker"))
            assert answer(sock).status == 200


def read_to_end(sock: socket.socket) -> bytes:
    received = b""
    while True:
        try:
            data = sock.recv(65536)
        except ConnectionResetError:
            return received
        if not data:
            return received
        received += data


def request(method: bytes, target: bytes, *headers: bytes, body: bytes = b"", host: bytes = HOST) -> bytes:
    length = [b"Content-Length: %d" % len(body)] if body else []
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: " + host, *headers, *length, b"", body])


class Answer(NamedTuple):
    status: int
    body: bytes


def answer(sock: socket.socket) -> Answer:
    """Read exactly one answer with a Content-Length, so that the next one stays unread."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = sock.recv(1)
        assert byte, f"the connection ended within {head!r}"
        head += byte
    left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    body = b""
    while len(body) < left:
        body += sock.recv(left - len(body))
    return Answer(int(head.split()[1]), body)


def refused(raw: bytes) -> tuple[int, dict[str, str]]:
    """Status and body of the one refusal that this is; fails if it is anything else."""
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert b"connection: close" in lines, raw
    assert b"content-length: %d" % len(body) in lines, raw
    assert not any(line.startswith(b"server:") for line in lines)
    return int(lines[0].split()[1]), json.loads(body)


def until(condition: Callable[[], bool]) -> None:
    deadline = _CLOCK.monotonic() + PATIENCE
    while not condition():
        assert _CLOCK.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def address_of(listen: str) -> TcpAddress | UnixAddress:
    """Where to listen; port 0, which no configuration may name, included."""
    if listen.startswith("unix:"):
        return UnixAddress(Path(listen.removeprefix("unix:")))
    host, _, port = listen.rpartition(":")
    return TcpAddress(host.strip("[]"), int(port))


@contextlib.contextmanager
def running_edge(
    limits: EdgeLimits | None = None,
    *,
    listen: str = "127.0.0.1:0",
    tls: TlsFiles | None = None,
    client_tls: ssl.SSLContext | None = None,
) -> Iterator[RunningEdge]:
    """The edge under uvloop in a thread of its own."""
    app = RecordingApp()
    edge = RunningEdge(app, client_tls)
    started = threading.Event()
    box: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
    failures: list[BaseException] = []

    async def run() -> None:
        box.append((asyncio.get_running_loop(), asyncio.Event()))
        edge.stop = partial(box[0][0].call_soon_threadsafe, box[0][1].set)
        edge.server_tls = None if tls is None else ServerTls(tls)

        def ready(url: str) -> None:
            edge.url = url
            started.set()

        await serve(
            app,
            listen=address_of(listen),
            tls=edge.server_tls,
            limits=limits or EdgeLimits(),
            allowed_hosts=frozenset({HOST.decode()}),
            on_refusal=lambda address, code: edge.refusals.append((address, code)),
            clock=SystemClock(),
            ready=ready,
            stop=box[0][1],
            draining=edge.draining,
        )

    def main() -> None:
        try:
            uvloop.run(run())
        except BaseException as error:  # noqa: BLE001 - handed to the test below
            failures.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=main)
    thread.start()
    assert started.wait(PATIENCE)
    if failures:
        thread.join(PATIENCE)
        raise failures[0]
    try:
        yield edge
    finally:
        with contextlib.suppress(RuntimeError):
            edge.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
    if failures:
        raise failures[0]
