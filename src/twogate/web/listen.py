"""Listens on one address and serves one ASGI application through the hardened protocol until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import signal
import socket
import ssl
import stat
import threading
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import uvicorn

from twogate.config.values import TcpAddress, UnixAddress
from twogate.flows.environment import Clock
from twogate.web.edge import OnRefusal
from twogate.web.edge_limits import EdgeLimits
from twogate.web.server import EdgeProtocol, protocol_class
from twogate.web.tls import ServerTls

AsgiApp = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]

_LAST_WORD_SECONDS: Final = 2.0
"""How long requests that are cut off at the stop may take to say so."""
_BACKLOG: Final = 2048
_OWNER_ONLY: Final = 0o600
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class ListenError(ValueError):
    """The server cannot start like this; the text says which setting to change."""


def hosts_of(public_url: str) -> frozenset[str]:
    """The Host values under which clients may name this URL's origin.

    Raises:
        ListenError: Not an http or https URL with a host.
    """
    try:
        parts = urlsplit(public_url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ListenError(f"public_url: {error}") from error
    if parts.scheme not in _DEFAULT_PORTS or not host:
        raise ListenError("public_url: must be an http or https URL with a host")
    host = f"[{host}]" if ":" in host else host
    default = _DEFAULT_PORTS[parts.scheme]
    if port in {None, default}:
        return frozenset({host, f"{host}:{default}"})
    return frozenset({f"{host}:{port}"})


async def serve(  # noqa: PLR0913 - what a process gives its listener
    app: AsgiApp,
    *,
    listen: TcpAddress | UnixAddress,
    tls: ServerTls | None,
    limits: EdgeLimits,
    allowed_hosts: frozenset[str],
    on_refusal: OnRefusal,
    clock: Clock,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
    draining: asyncio.Event | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or `stop`, then drain: no new connections, and what is under way may end.

    Requests that still arrive on open connections are answered with `Connection: close`. Run it under `uvloop.run`.
    Signals are handled in the main thread only; a second one ends without waiting.

    Args:
        app: Served over HTTP, with the ASGI lifespan.
        listen: Where (port 0: any free one). Plain HTTP only on a loopback address or a Unix socket, which is made
            with mode 0600.
        tls: None serves plain HTTP.
        limits: Caps and deadlines of connections.
        allowed_hosts: Accepted Host values (`hosts_of(public_url)`). When listening on a loopback or the unspecified
            address, localhost, 127.0.0.1 and [::1] with the bound port are accepted too.
        on_refusal: Told every request refused before the application.
        clock: Its monotonic time drives the deadlines.
        ready: Called once with the bound URL when connections are accepted.
        stop: Ends the server when set.
        draining: Set here as soon as the server begins to end.

    Raises:
        ListenError: The address is in use, not this machine's, or would need TLS.
        RuntimeError: The application's own start-up failed (logged by uvicorn).
    """
    context = None if tls is None else tls.context
    sock, url, own_hosts = await _bind(listen, plain=context is None)
    try:
        protocol = protocol_class(limits, allowed_hosts | own_hosts, on_refusal, clock)
        if tls is not None:
            tls.distrust = protocol.edge.distrust
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="on",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            forwarded_allow_ips=[],
            server_header=False,
            workers=1,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=limits.drain_seconds,
        )
        announce = (lambda: None) if ready is None else (lambda: ready(url))
        server = _Server(config, protocol, sock, context, announce, draining or asyncio.Event())
        watcher = None if stop is None else asyncio.create_task(_stop_when_set(server, stop))
        try:
            await server.serve()
        finally:
            if watcher is not None:
                watcher.cancel()
    finally:
        sock.close()
        if isinstance(listen, UnixAddress):
            listen.path.unlink(missing_ok=True)


async def _stop_when_set(server: _Server, stop: asyncio.Event) -> None:
    await stop.wait()
    server.begin_to_end()


class _Server(uvicorn.Server):
    """uvicorn's server with a handshake deadline, a socket of ours, and an exit status of 0 after a signal."""

    def __init__(
        self,
        config: uvicorn.Config,
        protocol: type[EdgeProtocol],
        sock: socket.socket,
        context: ssl.SSLContext | None,
        announce: Callable[[], None],
        draining: asyncio.Event,
    ) -> None:
        super().__init__(config)
        self._protocol = protocol
        self._sock = sock
        self._context = context
        self._announce = announce
        self._draining = draining

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then listen (the base class cannot pass a handshake timeout)."""
        del sockets
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise RuntimeError("the application did not start; the log of uvicorn.error says why")
        loop = asyncio.get_running_loop()

        def connection() -> asyncio.Protocol:
            return self._protocol(self.config, self.server_state, self.lifespan.state, loop)

        handshake = None if self._context is None else self._protocol.edge.limits.handshake_seconds
        create = loop.create_unix_server if self._sock.family == socket.AF_UNIX else loop.create_server
        self.servers = [
            await create(
                connection,
                sock=self._sock,
                ssl=self._context,
                backlog=self.config.backlog,
                ssl_handshake_timeout=handshake,
                ssl_shutdown_timeout=handshake,
            )
        ]
        self.started = True
        self._announce()

    def begin_to_end(self) -> None:
        """Say so at once, to every connection too; the base class looks at `should_exit` ten times a second."""
        self._draining.set()
        self._protocol.edge.draining = True
        self.should_exit = True
        for connection in list(self.server_state.connections):
            connection.shutdown()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then end what did not end by itself."""
        await super().shutdown(sockets)
        # After a second signal uvicorn leaves them running; what they have to record must be written before the caller
        # closes the audit trail.
        running = list(self.server_state.tasks)
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=_LAST_WORD_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.gather(*running, return_exceptions=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop on SIGTERM and SIGINT; unlike the base class, do not raise them again when all is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        self.force_exit = self.should_exit
        self.begin_to_end()


async def _bind(address: TcpAddress | UnixAddress, *, plain: bool) -> tuple[socket.socket, str, frozenset[str]]:
    """A bound socket, its URL, and the Host values that name it."""
    if isinstance(address, UnixAddress):
        return _bind_unix(str(address.path)), str(address), frozenset()
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(f"listen: {address.host!r} is not an address of this machine ({error})") from error
    # A name with several addresses is served on one of them, IPv4 first as clients of `localhost` expect.
    family, _, _, _, target = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    ip = ipaddress.ip_address(str(target[0]).partition("%")[0])
    if plain and not ip.is_loopback:
        raise ListenError(
            f"listen: {address.host}:{address.port} is reachable from other machines, so it needs TLS; set "
            "tls.certificate and tls.key, or listen on 127.0.0.1 or a unix:/path socket behind a proxy"
        )
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(target)
    except OSError as error:
        sock.close()
        raise ListenError(f"listen: cannot bind {address.host}:{address.port} ({error.strerror})") from error
    sock.setblocking(False)
    port = sock.getsockname()[1]
    host = f"[{address.host}]" if ":" in address.host else address.host
    own = frozenset({f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"})
    return (
        sock,
        f"{'http' if plain else 'https'}://{host}:{port}",
        own if ip.is_loopback or ip.is_unspecified else frozenset(),
    )


def _bind_unix(path: str) -> socket.socket:
    """A Unix socket that only this user may connect to."""
    _remove_dead_socket(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)  # so that there is no moment at which others could connect
        try:
            sock.bind(path)
        finally:
            os.umask(mask)
        if stat.S_IMODE(Path(path).stat().st_mode) != _OWNER_ONLY:
            raise ListenError(f"listen: {path} did not get mode 0600; use a file system that keeps permissions")
    except OSError as error:
        sock.close()
        raise ListenError(f"listen: cannot make the socket {path} ({error.strerror})") from error
    sock.setblocking(False)
    return sock


def _remove_dead_socket(path: str) -> None:
    """Remove what a killed process left behind; never a file, never the socket of a living one."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ListenError(f"listen: {path} exists and is not a socket; remove it or name another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        result = probe.connect_ex(path)
    if result != errno.ECONNREFUSED:
        raise ListenError(f"listen: another process serves {path}; stop it or name another path")
    Path(path).unlink()
