"""What of an HTTP answer's head is read: the rules that every way to a server shares."""

from __future__ import annotations

import re
from typing import Final

MAX_HEAD: Final = 64 * 1024
"""Bytes of an answer's head, interim answers included, and of anything later that is not body (chunk framing)."""
MAX_HEADERS: Final = 100
MAX_SESSION_ID: Final = 1024
READ_AHEAD: Final = 256 * 1024
"""Unread body bytes above which no more is taken from the server."""

READ_HEADERS: Final = frozenset(
    {b"content-type", b"content-length", b"content-encoding", b"transfer-encoding", b"mcp-session-id"}
)
FINAL: Final = frozenset({2, 4, 5})
"""Classes of status codes (RFC 9110 section 15); redirects are not followed, so they are no answer."""
_SESSION_ID: Final = re.compile(rb"[\x21-\x7e]{1,%d}" % MAX_SESSION_ID)
_MEDIA_TYPE: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]{1,127}/[!#$%&'*+.^_`|~0-9a-z-]{1,127}")


class RefusedError(Exception):
    """The answer breaks a rule; the text is for the audit trail."""


def check_codings(seen: dict[bytes, bytes]) -> None:
    """Refuse a body in a form that was not asked for.

    Raises:
        RefusedError
    """
    coding = seen.get(b"transfer-encoding")
    if coding is not None and coding.lower() != b"chunked":
        raise RefusedError("transfer-encoding other than chunked")
    if seen.get(b"content-encoding", b"identity").lower() != b"identity":
        raise RefusedError("content-encoding, though identity was asked for")


def parse_media_type(value: bytes | None) -> str:
    """The media type in lower case without parameters; empty when absent (RFC 9110 section 8.3).

    Raises:
        RefusedError
    """
    if value is None:
        return ""
    if value == b"application/json":
        return "application/json"
    media_type = value.partition(b";")[0].rstrip(b" \t").lower()
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise RefusedError("content-type")
    return media_type.decode("ascii")


def parse_session_id(value: bytes | None) -> str | None:
    """The session id: "MUST only contain visible ASCII characters" (MCP, Streamable HTTP, session management).

    Raises:
        RefusedError
    """
    if value is None:
        return None
    if not _SESSION_ID.fullmatch(value):
        raise RefusedError("mcp-session-id")
    return value.decode("ascii")
