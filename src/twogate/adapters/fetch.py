"""Downloads for the control plane that cannot be turned against the internal network; implements `flows.fetch.Fetch`.

Steps, numbered in the code:

1. The URL is parsed strictly: what another parser could read differently is refused.
2. The host is resolved once, and every address is judged; one bad address refuses all of them.
3. The connection goes to a judged address. Nothing resolves the name again, so a changed DNS answer changes nothing;
   TLS still verifies the name.
4. Only a complete answer counts, not encoded, within the size and the time: 200, and after a form also the 400s, by
   which OAuth says no. Of a message only the status counts, any of the 200s. Redirects are not followed.

httpcore2 is used without httpx2 around it: one connection per download, so there is no pool from which a connection
that was opened for a configured URL could serve a requested one, and no proxies, cookies or redirects to switch off.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from ipaddress import ip_address
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlencode

import httpcore2
import msgspec

from twogate.adapters.addresses import Address, is_globally_reachable, is_loopback, is_ordinary_host
from twogate.adapters.fetch_headers import Headers
from twogate.adapters.fetch_url import Target, parse_url
from twogate.flows.environment import Clock
from twogate.flows.fetch import Fetched, FetchError, Posted, Trust

TOTAL_SECONDS: Final = 5.0
"""For everything: resolving, connecting, and the whole body."""
MAX_ADDRESSES: Final = 16
_FIRST_SUCCESS: Final = 200
_LAST_SUCCESS: Final = 299
_FIRST_REFUSAL: Final = 400
_LAST_REFUSAL: Final = 499

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host name, for a port.

Raises:
    OSError: It has none.
"""


async def resolve_with_system(host: str, port: int) -> Sequence[str]:
    """Ask the operating system's resolver.

    Raises:
        OSError: The name does not resolve.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class GuardedFetch:
    """Fetches small documents from judged addresses only.

    Args:
        clock: For `Expires` without `Date`.
        resolve: Finds the addresses of a name.
        network: Opens connections to the addresses that were judged.
        seconds: The limit for one download.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        resolve: Resolve = resolve_with_system,
        network: httpcore2.AsyncNetworkBackend | None = None,
        seconds: float = TOTAL_SECONDS,
    ) -> None:
        self._clock = clock
        self._resolve = resolve
        self._network = network or cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())
        self._seconds = seconds
        self._contexts: dict[Path | None, ssl.SSLContext] = {}

    async def get(
        self,
        url: str,
        *,
        trust: Trust,
        max_bytes: int,
        ca_file: Path | None = None,
        accept: str = "application/json",
    ) -> Fetched:
        """GET `url`; see `Fetch.get`.

        Raises:
            FetchError: The URL or an address of its host is refused, or no complete 200 answer came.
        """
        request = _Request("GET", (("accept", accept),))
        answer = await self._send(request, url, trust, max_bytes, ca_file)
        return Fetched(
            body=answer.body,
            content_type=answer.headers.media_type(),
            cache_max_age=answer.headers.max_age(self._clock.now()),
        )

    async def post_form(
        self,
        url: str,
        form: Mapping[str, str],
        *,
        trust: Trust,
        max_bytes: int,
        authorization: str | None = None,
        ca_file: Path | None = None,
    ) -> Posted:
        """POST a form to `url`; see `FormPost.post_form`.

        Raises:
            FetchError: The URL or an address of its host is refused, or no complete answer of 200 or the 400s came.
        """
        body = urlencode(form).encode("ascii")
        headers = [
            ("accept", "application/json"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("content-length", str(len(body))),
        ]
        if authorization is not None:
            headers.append(("authorization", authorization))
        answer = await self._send(_Request("POST", tuple(headers), body), url, trust, max_bytes, ca_file)
        return Posted(status=answer.status, body=answer.body)

    async def post_message(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        trust: Trust,
        ca_file: Path | None = None,
    ) -> None:
        """POST JSON to `url`; see `MessagePost.post_message`.

        Raises:
            FetchError: The URL or an address of its host is refused, or no answer of the 200s came.
        """
        fields = [("content-type", "application/json"), ("content-length", str(len(body))), *headers.items()]
        await self._send(_Request("POST", tuple(fields), body, is_message=True), url, trust, 0, ca_file)

    async def _send(self, request: _Request, url: str, trust: Trust, max_bytes: int, ca_file: Path | None) -> _Answer:
        target = parse_url(url, trust)
        try:
            async with asyncio.timeout(self._seconds):
                addresses = await self._judge(target, trust)
                return await self._exchange(request, target, addresses, max_bytes, ca_file)
        except TimeoutError:
            raise FetchError(f"{target.host}: no complete answer within {self._seconds:g} s") from None
        except (
            OSError,
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.TimeoutException,
        ) as error:
            raise FetchError(f"{target.host}: {type(error).__name__}: {error}") from error

    async def _judge(self, target: Target, trust: Trust) -> list[Address]:
        """Step 2."""
        found = [target.host] if target.is_address else await self._resolve(target.host, target.port)
        if not found or len(found) > MAX_ADDRESSES:
            raise FetchError(f"{target.host}: {len(found)} addresses")
        try:
            addresses = [ip_address(text) for text in found]
        except ValueError:
            raise FetchError(f"{target.host}: the resolver gave something that is no address") from None
        if trust is Trust.REQUESTED:
            allowed = is_globally_reachable
        elif target.scheme == "http":
            allowed = is_loopback
        else:
            allowed = is_ordinary_host
        for address in addresses:
            if not allowed(address):
                raise FetchError(f"{target.host}: {address} may not be fetched from ({trust.value}, {target.scheme})")
        return addresses

    async def _exchange(
        self, request: _Request, target: Target, addresses: list[Address], max_bytes: int, ca_file: Path | None
    ) -> _Answer:
        """Steps 3 and 4."""
        # The name stays in the origin, so SNI, Host and the certificate check use it; only connecting is taken over.
        pinned = _Pinned(self._network, addresses)
        connection = httpcore2.AsyncHTTPConnection(
            httpcore2.Origin(target.scheme.encode("ascii"), target.host.encode("ascii"), target.port),
            ssl_context=self._context(ca_file) if target.scheme == "https" else None,
            network_backend=pinned,
        )
        sent = httpcore2.Request(
            request.method,
            httpcore2.URL(
                scheme=target.scheme.encode("ascii"),
                host=target.host.encode("ascii"),
                port=target.port,
                target=target.target.encode("ascii"),
            ),
            headers=[
                ("host", target.authority),
                *request.headers,
                ("accept-encoding", "identity"),
                ("user-agent", "twogate"),
                ("connection", "close"),
            ],
            content=request.body,
        )
        try:
            response = await connection.handle_async_request(sent)
            headers = Headers(response.headers)
            if not request.accepts(response.status):
                raise FetchError(f"{target.host}: status {response.status}")
            if request.is_message:
                return _Answer(response.status, headers, b"")
            if headers.last("content-encoding").lower() not in {"", "identity"}:
                raise FetchError(f"{target.host}: an encoded answer, though identity was asked for")
            body = bytearray()
            async for part in response.aiter_stream():
                body += part
                if len(body) > max_bytes:
                    raise FetchError(f"{target.host}: the answer is larger than {max_bytes} bytes")
            return _Answer(response.status, headers, bytes(body))
        finally:
            await connection.aclose()
            await pinned.aclose()

    def _context(self, ca_file: Path | None) -> ssl.SSLContext:
        """One TLS context per CA file: making one costs more than a download."""
        context = self._contexts.get(ca_file)
        if context is None:
            try:
                context = self._contexts[ca_file] = ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                raise FetchError(f"the CA file {ca_file} cannot be used: {error}") from error
        return context


class _Request(msgspec.Struct, frozen=True):
    """What is sent besides the header fields that every request has. It may hold credentials."""

    method: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None = None
    is_message: bool = False
    """Only whether it was taken counts; whatever the answer says is not even read."""

    def accepts(self, status: int) -> bool:
        """Whether an answer of this status is one."""
        if self.is_message:
            return _FIRST_SUCCESS <= status <= _LAST_SUCCESS
        refusal = self.method == "POST" and _FIRST_REFUSAL <= status <= _LAST_REFUSAL
        return refusal or status == HTTPStatus.OK

    def __repr__(self) -> str:
        """Leave them out."""
        return f"_Request({self.method})"


class _Answer(msgspec.Struct, frozen=True):
    """A complete answer."""

    status: int
    headers: Headers
    body: bytes

    def __repr__(self) -> str:
        """Leave out what may be tokens."""
        return f"_Answer({self.status})"


class _Pinned(httpcore2.AsyncNetworkBackend):
    """Step 3: connects to the addresses that were judged, whatever the host is called."""

    def __init__(self, network: httpcore2.AsyncNetworkBackend, addresses: list[Address]) -> None:
        self._network = network
        self._addresses = addresses
        self._stream: httpcore2.AsyncNetworkStream | None = None

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - judged already, and not looked at again
        port: int,
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - httpcore2's signature; `get` limits the total
        local_address: str | None = None,  # noqa: ARG002 - never set
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,  # noqa: ARG002 - never set
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the first of the addresses that answers.

        Raises:
            httpcore2.ConnectError: None does.
        """
        for address in self._addresses[:-1]:
            try:
                return await self._connect(address, port)
            except httpcore2.ConnectError:
                continue
        return await self._connect(self._addresses[-1], port)

    async def _connect(self, address: Address, port: int) -> httpcore2.AsyncNetworkStream:
        self._stream = await self._network.connect_tcp(str(address), port)
        return self._stream

    async def aclose(self) -> None:
        """Close the socket, which httpcore2 forgets when it is cancelled within the TLS handshake."""
        if self._stream is not None:
            await self._stream.aclose()
