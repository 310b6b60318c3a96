"""The address that a server of the HTTP+SSE transport wants its messages posted to (MCP 2024-11-05, "Transports").

The server chooses it, so it is the way by which a hostile one would make Twogate call somebody else. Connections go to
the configured origin whatever this module says; here an address that names another one is refused instead of misread.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urljoin, urlsplit

from twogate.adapters.upstream.http_origin import HttpOrigin
from twogate.core.errors import ErrorCode, GateError

# Visible ASCII without what parsers disagree about: a backslash is a slash for browsers, a fragment is never sent.
_REFERENCE: Final = re.compile(rb"[!-\"$-\[\]-~]{1,2048}")


def endpoint_target(origin: HttpOrigin, reference: bytes) -> str:
    """The path and query to post to, from a reference relative to the configured URL (RFC 3986 section 5.2).

    Raises:
        GateError: UPSTREAM_INVALID for an address elsewhere, with userinfo or fragment, or that is none.
    """
    if not _REFERENCE.fullmatch(reference):
        raise GateError(ErrorCode.UPSTREAM_INVALID, "the endpoint is no URL of at most 2048 characters")
    text = reference.decode("ascii")
    try:
        given, parts = urlsplit(text), urlsplit(urljoin(origin.url, text))
        same = origin.holds(parts.scheme, parts.hostname, parts.port)
    except ValueError as error:
        raise GateError(ErrorCode.UPSTREAM_INVALID, "the endpoint is no URL") from error
    # `http:path` and `http:///path` are read in several ways.
    if not same or "@" in parts.netloc or (given.scheme and not given.netloc):
        raise GateError(ErrorCode.UPSTREAM_INVALID, "the endpoint is of another origin than the configured URL")
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
