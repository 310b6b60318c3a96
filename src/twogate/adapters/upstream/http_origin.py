"""Where an MCP server is, as its configured URL says, and what every request to it begins with."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from twogate.adapters.upstream.http_pool import HttpPool, HttpUpstreamLimits

Header = tuple[bytes, bytes]

_OUR_HEADERS: Final = frozenset(
    {b"host", b"accept-encoding", b"connection", b"content-length", b"transfer-encoding", b"upgrade", b"te", b"trailer"}
)
_HEADER_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_HEADER_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]{0,8192}")
_URL: Final = re.compile(r"https?://[\x21-\x7e]{1,2048}")
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


class HttpOrigin:
    """A server's scheme, host and port, and how to trust it.

    `target` is the path and query of the URL itself.

    Args:
        url: `http:` or `https:`, without userinfo or fragment.
        ca_file: PEM of the only authorities to trust instead of the system's; `https:` only.
        extra_headers: Sent with every request, for example a credential for this server.

    Raises:
        ValueError: A wrong URL or header.
        OSError: The CA file cannot be read (`ssl.SSLError` if it holds no certificate).
    """

    def __init__(self, url: str, ca_file: Path | None = None, extra_headers: tuple[Header, ...] = ()) -> None:
        parts = urlsplit(url) if _URL.fullmatch(url) else None
        if parts is None or not parts.hostname or parts.username is not None or "#" in url:
            raise ValueError("an upstream's URL is http(s)://host[:port]/path, without userinfo or fragment")
        self.url = url
        self.scheme = parts.scheme
        self.host = parts.hostname
        self.port = parts.port or _DEFAULT_PORTS[parts.scheme]
        self.target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._tls = _tls_context(ca_file) if parts.scheme == "https" else None
        if ca_file is not None and self._tls is None:
            raise ValueError("a CA file needs an https URL")
        self._fixed = f" HTTP/1.1\r\nhost: {parts.netloc}\r\naccept-encoding: identity\r\n".encode("ascii")
        self._fixed += _encode_fixed(extra_headers)

    def head(self, method: str, target: str | None = None) -> bytes:
        """The request line and the headers that every request has. `target` must be visible ASCII.

        Raises:
            UnicodeEncodeError: it is not ASCII.
        """
        return f"{method} {self.target if target is None else target}".encode("ascii") + self._fixed

    def pool(self, limits: HttpUpstreamLimits) -> HttpPool:
        """Connections to this origin and no other."""
        return HttpPool(self.host, self.port, self._tls, limits)

    def holds(self, scheme: str, host: str | None, port: int | None) -> bool:
        """Whether these are this origin (RFC 6454 section 5), a missing port being the scheme's own."""
        return (scheme, host, port or _DEFAULT_PORTS.get(scheme)) == (self.scheme, self.host, self.port)


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _encode_fixed(headers: tuple[Header, ...]) -> bytes:
    for name, value in headers:
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"not a header: {name!r}")
        if name.lower() in _OUR_HEADERS:
            raise ValueError(f"{name.decode('ascii')} is set by Twogate itself")
    return b"".join([b"%b: %b\r\n" % header for header in headers])
