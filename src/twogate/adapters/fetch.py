"""Downloads for the control plane that cannot be turned against the internal network; implements `flows.fetch.Fetch`.

Steps, numbered in the code:

1. The URL is parsed strictly: what another parser could read differently is refused.
2. The host is resolved once, and every address is judged; one bad address refuses all of them.
3. The connection goes to a judged address. Nothing resolves the name again, so a changed DNS answer changes nothing;
   TLS still verifies the name.
4. Only a complete 200 answer counts, not encoded, within the size and the time. Redirects are not followed.

httpcore2 is used without httpx2 around it: one connection per download, so there is no pool from which a connection
that was opened for a configured URL could serve a requested one, and no proxies, cookies or redirects to switch off.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import httpcore2
import msgspec

from twogate.adapters.addresses import Address, is_globally_reachable, is_loopback, is_ordinary_host
from twogate.flows.environment import Clock
from twogate.flows.fetch import Fetched, FetchError, Trust

TOTAL_SECONDS: Final = 5.0
"""For everything: resolving, connecting, and the whole body."""
MAX_URL: Final = 2048
MAX_ADDRESSES: Final = 16
_HTTP_PORT: Final = 80
_HTTPS_PORT: Final = 443
_UNPRIVILEGED: Final = 1024

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_MEDIA_TYPE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")
_SECONDS: Final = re.compile(r"[0-9]{1,9}")

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
        target = _parse_url(url, trust)
        try:
            async with asyncio.timeout(self._seconds):
                addresses = await self._judge(target, trust)
                return await self._download(target, addresses, max_bytes, ca_file, accept)
        except TimeoutError:
            raise FetchError(f"{target.host}: no complete answer within {self._seconds:g} s") from None
        except (
            OSError,
            httpcore2.NetworkError,
            httpcore2.ProtocolError,
            httpcore2.TimeoutException,
        ) as error:
            raise FetchError(f"{target.host}: {type(error).__name__}: {error}") from error

    async def _judge(self, target: _Target, trust: Trust) -> list[Address]:
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

    async def _download(
        self, target: _Target, addresses: list[Address], max_bytes: int, ca_file: Path | None, accept: str
    ) -> Fetched:
        """Steps 3 and 4."""
        # The name stays in the origin, so SNI, Host and the certificate check use it; only connecting is taken over.
        pinned = _Pinned(self._network, addresses)
        connection = httpcore2.AsyncHTTPConnection(
            httpcore2.Origin(target.scheme.encode("ascii"), target.host.encode("ascii"), target.port),
            ssl_context=self._context(ca_file) if target.scheme == "https" else None,
            network_backend=pinned,
        )
        request = httpcore2.Request(
            "GET",
            httpcore2.URL(
                scheme=target.scheme.encode("ascii"),
                host=target.host.encode("ascii"),
                port=target.port,
                target=target.target.encode("ascii"),
            ),
            headers=[
                ("host", target.authority),
                ("accept", accept),
                ("accept-encoding", "identity"),
                ("user-agent", "twogate"),
                ("connection", "close"),
            ],
        )
        try:
            response = await connection.handle_async_request(request)
            headers = _Headers(response.headers)
            if response.status != HTTPStatus.OK:
                raise FetchError(f"{target.host}: status {response.status}")
            if headers.last("content-encoding").lower() not in {"", "identity"}:
                raise FetchError(f"{target.host}: an encoded answer, though identity was asked for")
            body = bytearray()
            async for part in response.aiter_stream():
                body += part
                if len(body) > max_bytes:
                    raise FetchError(f"{target.host}: the answer is larger than {max_bytes} bytes")
            return Fetched(
                body=bytes(body), content_type=headers.media_type(), cache_max_age=headers.max_age(self._clock.now())
            )
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


class _Target(msgspec.Struct, frozen=True):
    """A URL, parsed. `authority` is what Host says, `target` the path and query."""

    scheme: str
    host: str
    port: int
    authority: str
    target: str
    is_address: bool


def _parse_url(url: str, trust: Trust) -> _Target:
    """Step 1."""
    # Backslashes, tabs and line breaks are read differently by different parsers, so none is let through.
    if len(url) > MAX_URL or not _VISIBLE.fullmatch(url) or "\\" in url:
        raise FetchError("the URL is too long or holds characters that no URL has")
    if "#" in url:
        raise FetchError("the URL has a fragment")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise FetchError("the URL cannot be parsed") from None
    if "@" in parts.netloc:
        raise FetchError("the URL has userinfo")
    if parts.scheme != "https" and (parts.scheme != "http" or trust is Trust.REQUESTED):
        raise FetchError("the URL's scheme is not https")
    host = parts.hostname or ""
    is_address = _is_canonical_address(host)
    if not is_address and not _is_name(host):
        raise FetchError("the URL's host is neither a name nor an address in its one usual form")
    bare = f"[{host}]" if ":" in host else host
    if parts.netloc.lower() not in {bare, f"{bare}:{port}"}:
        raise FetchError("the URL's host and port are not in their one usual form")
    default_port = _HTTPS_PORT if parts.scheme == "https" else _HTTP_PORT
    port = default_port if port is None else port
    if trust is Trust.REQUESTED and port != _HTTPS_PORT and port < _UNPRIVILEGED:
        raise FetchError(f"port {port} may not be fetched from")
    authority = bare if port == default_port else f"{bare}:{port}"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Target(parts.scheme, host, port, authority, target, is_address)


def _is_canonical_address(host: str) -> bool:
    """Four decimal numbers without leading zeros, or an IPv6 address without a zone."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return not (isinstance(address, IPv6Address) and address.scope_id is not None)


def _is_name(host: str) -> bool:
    """A host name of letters, digits and hyphens (RFC 1123), in ASCII.

    One whose last label is a number is an IPv4 address to some resolvers (`127.1`, `2130706433`, `0x7f.1`), so it is
    no name (WHATWG URL, "ends in a number").
    """
    labels = host.split(".")
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels)) and not _NUMBER.fullmatch(labels[-1])  # noqa: PLR2004 - RFC 1035


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


class _Headers:
    """The few header fields of an answer that are looked at."""

    def __init__(self, raw: Sequence[tuple[bytes, bytes]]) -> None:
        self._fields: dict[str, list[str]] = {}
        for name, value in raw:
            self._fields.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").strip())

    def last(self, name: str) -> str:
        return self._fields.get(name, [""])[-1]

    def media_type(self) -> str:
        found = self.last("content-type").partition(";")[0].strip().lower()
        return found if _MEDIA_TYPE.fullmatch(found) else ""

    def max_age(self, now: int) -> int | None:
        """Seconds for which the answer is fresh for a private cache (RFC 9111 sections 4.2.1 and 5.2.2)."""
        control = ",".join(self._fields.get("cache-control", []))
        directives = [part.strip().lower() for part in control.split(",")]
        # A directive with a field list (`no-cache="set-cookie"`) counts as the bare one: fetching again is never wrong.
        if any(part.partition("=")[0] in {"no-store", "no-cache"} for part in directives):
            return 0
        ages = [part.partition("=")[2].strip('"') for part in directives if part.startswith("max-age=")]
        if ages:
            # "If directives conflict […], either the first occurrence should be used or the response should be
            # considered stale" (section 4.2.1).
            if len(set(ages)) > 1 or not _SECONDS.fullmatch(ages[0]):
                return 0
            age = self.last("age")
            return max(0, int(ages[0]) - (int(age) if _SECONDS.fullmatch(age) else 0))
        if "expires" in self._fields:
            expires, date = _parse_date(self.last("expires")), _parse_date(self.last("date"))
            # "A cache recipient MUST interpret invalid date formats […] as representing a time in the past" (5.3).
            return 0 if expires is None else max(0, expires - (now if date is None else date))
        return None


def _parse_date(text: str) -> int | None:
    try:
        return int(parsedate_to_datetime(text).timestamp())
    except (ValueError, OverflowError):
        return None
