"""URLs of downloads, parsed so strictly that no other parser could read them differently."""

from __future__ import annotations

import re
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import urlsplit

import msgspec

from twogate.flows.fetch import FetchError, Trust

MAX_URL: Final = 2048
_HTTP_PORT: Final = 80
_HTTPS_PORT: Final = 443
_UNPRIVILEGED: Final = 1024

_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


class Target(msgspec.Struct, frozen=True):
    """A URL, parsed. `authority` is what Host says, `target` the path and query."""

    scheme: str
    host: str
    port: int
    authority: str
    target: str
    is_address: bool


def parse_url(url: str, trust: Trust) -> Target:
    """Parse a URL that this trust allows at all.

    Raises:
        FetchError: it is refused; the text says why.
    """
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
    return Target(parts.scheme, host, port, authority, target, is_address)


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
