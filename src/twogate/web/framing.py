"""Which HTTP/1.1 requests are let in: the rules that httptools leaves open, as functions without I/O.

httptools (llhttp) already refuses bare CR or LF, folded lines, NUL, blanks before a colon, conflicting or signed
lengths. What it lets through and two HTTP implementations could read in two ways is refused here (RFC 9112 section 11).
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

import msgspec

from twogate.core.errors import FACES, ErrorCode
from twogate.web.edge_limits import EdgeLimits

CHUNKED: Final = -1
"""Stands for the length of a body that comes in chunks."""


class Refusal(msgspec.Struct, frozen=True):
    """A status, the audit's reason, and one sentence for the caller that repeats nothing of the request."""

    status: HTTPStatus
    code: ErrorCode
    text: str

    def body(self) -> bytes:
        """The answer's body, as JSON."""
        return msgspec.json.encode({"error": FACES[self.code].reason, "error_description": self.text})

    def answer(self, extra_headers: list[tuple[bytes, bytes]]) -> bytes:
        """The whole HTTP/1.1 answer, after which the connection ends."""
        body = self.body()
        return b"".join(
            (
                b"HTTP/1.1 %d %s\r\n" % (self.status.value, self.status.phrase.encode("ascii")),
                *(b"%s: %s\r\n" % header for header in extra_headers),
                b"content-type: application/json\r\ncache-control: no-store\r\nconnection: close\r\n",
                b"content-length: %d\r\n\r\n" % len(body),
                body,
            )
        )


class RequestLine(msgspec.Struct, frozen=True):
    """A request line that is let in."""

    method: str
    raw_path: bytes
    path: str
    """Percent-decoded."""
    query: bytes
    version: str


class Refused(Exception):  # noqa: N818 - a control flow of this package, not an error of the program
    """Carries a refusal from a rule to the connection."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


def _bad(text: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> Refusal:
    return Refusal(status, ErrorCode.REQUEST_MALFORMED, text)


def _large(text: str, status: HTTPStatus) -> Refusal:
    return Refusal(status, ErrorCode.TOO_LARGE, text)


MALFORMED: Final = _bad("The request is not well-formed HTTP/1.1.")
UPGRADE: Final = _bad("Protocol upgrades are not served here; send the request without Upgrade.")
VERSION: Final = _bad("Only HTTP/1.0 and HTTP/1.1 are spoken here.", HTTPStatus.HTTP_VERSION_NOT_SUPPORTED)
METHOD: Final = Refusal(HTTPStatus.NOT_IMPLEMENTED, ErrorCode.METHOD_NOT_ALLOWED, "This HTTP method is not served.")
TARGET: Final = _bad("The request target must be an absolute path without dot segments, `//` or encoded separators.")
HOST_COUNT: Final = _bad("The request must have exactly one Host header.")
HOST: Final = Refusal(HTTPStatus.FORBIDDEN, ErrorCode.HOST_REFUSED, "Host does not name this server.")
REPEATED: Final = _bad("A header that may be given only once is repeated.")
HEADER: Final = _bad("A header line is not well-formed; underscores in names are not accepted.")
ENCODING: Final = _bad("Transfer-Encoding may only be `chunked`.", HTTPStatus.NOT_IMPLEMENTED)
FRAMING: Final = _bad("The request's length is not stated in one unambiguous way.")
CHUNK: Final = _bad("A chunk of the body is not well-formed; chunk extensions are not accepted.")
TRAILERS: Final = _bad("Trailers are not accepted.")
EXPECT: Final = _bad("Only `Expect: 100-continue` is known here.", HTTPStatus.EXPECTATION_FAILED)
TARGET_SIZE: Final = _large("The request target is too long.", HTTPStatus.REQUEST_URI_TOO_LONG)
HEAD_SIZE: Final = _large("The request's headers are too large.", HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
BODY_SIZE: Final = _large("The body is too large.", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
AHEAD_SIZE: Final = Refusal(HTTPStatus.TOO_MANY_REQUESTS, ErrorCode.RATE_LIMITED, "Too much was sent ahead.")
CONNECTIONS: Final = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, ErrorCode.RATE_LIMITED, "Too many connections.")
HEAD_TIME: Final = Refusal(HTTPStatus.REQUEST_TIMEOUT, ErrorCode.BODY_TIMEOUT, "The headers did not arrive in time.")
BODY_TIME: Final = Refusal(HTTPStatus.REQUEST_TIMEOUT, ErrorCode.BODY_TIMEOUT, "The body did not arrive in time.")

_METHODS: Final = {name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_VERSIONS: Final = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}

# A path of RFC 3986 segments, none empty but the last, none `.` or `..`; an encoded slash, backslash, dot or control
# character would name another path to whoever decodes it. Possessive, so that matching stays linear.
_TARGET: Final = re.compile(
    rb"(?:/(?!/|\.{1,2}(?:[/?]|\Z))"
    rb"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@]++|%(?!2[EFef]|5[Cc]|[01]|7[Ff])[0-9A-Fa-f]{2})*+)++"
    rb"(?:\?[\x21\x22\x24-\x5b\x5d-\x7e]*+)?+"
)
_REQUEST_LINE_REST: Final = len(b"OPTIONS  HTTP/1.1\r")
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n)+")
# In the beginning of a head: a CR or LF on its own, or NUL.
_HOPELESS: Final = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\x00")
_OTHER_VERSION: Final = re.compile(rb"HTTP/[0-9]\.[0-9]")
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^`|~0-9a-z]+")  # an RFC 9110 token without the underscore
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,14}")

SINGLETONS: Final = frozenset(
    b"""
    host content-length content-type content-encoding content-digest transfer-encoding expect upgrade authorization
    proxy-authorization dpop signature signature-input client-cert x-forwarded-client-cert x-api-key cookie origin
    referer user-agent last-event-id idempotency-key traceparent date range max-forwards if-modified-since
    if-unmodified-since x-requested-with access-control-request-method access-control-request-headers
    """.split()
)
_SINGLETON_PREFIXES: Final = (b"mcp-", b"twogate-", b"sec-fetch-")
KNOWN: Final = SINGLETONS | frozenset(
    b"""
    accept accept-encoding accept-language accept-charset cache-control connection keep-alive pragma te via forwarded
    x-forwarded-for x-forwarded-proto x-forwarded-host x-request-id tracestate baggage dnt if-match if-none-match
    mcp-protocol-version mcp-method mcp-name mcp-session-id twogate-session twogate-task twogate-operation-token
    sec-fetch-site sec-fetch-mode sec-fetch-dest sec-fetch-user sec-ch-ua sec-ch-ua-mobile sec-ch-ua-platform
    """.split()
)
"""Names that need no look at their characters."""
EXACT: Final = frozenset((b"host", b"content-length", b"transfer-encoding"))
"""Headers that every proxy before us reads too: a trailing blank is refused there, since not all of them strip it."""


class HeadRules:
    """The rules for a request's head under given limits and host names."""

    __slots__ = ("_hosts", "_limits")

    def __init__(self, limits: EdgeLimits, allowed_hosts: frozenset[str]) -> None:
        """Take the limits and the accepted Host values (lower case, with the port where it is not the default).

        Raises:
            ValueError: No host at all, which would refuse every request.
        """
        if not allowed_hosts:
            raise ValueError("allowed_hosts must name at least one host")
        self._limits = limits
        self._hosts = frozenset(host.lower().encode("ascii") for host in allowed_hosts)

    def read_request_line(self, line: bytes) -> RequestLine:
        """Read the first line of a request, without its CRLF (RFC 9112 section 3).

        Raises:
            Refused: Anything but `METHOD SP origin-form SP HTTP/1.x`.
        """
        parts = line.split(b" ")
        if len(parts) != 3:  # noqa: PLR2004 - as RFC 9112 writes it
            raise Refused(MALFORMED)
        version = _VERSIONS.get(parts[2])
        if version is None:
            raise Refused(VERSION if _OTHER_VERSION.fullmatch(parts[2]) else MALFORMED)
        method = _METHODS.get(parts[0])
        if method is None:
            raise Refused(METHOD)
        target = parts[1]
        if len(target) > self._limits.max_target_bytes:
            raise Refused(TARGET_SIZE)
        if _TARGET.fullmatch(target) is None:
            raise Refused(TARGET)
        raw_path, _, query = target.partition(b"?")
        return RequestLine(method, raw_path, unquote(raw_path.decode("ascii")), query, version)

    def read_partial_head(self, data: bytes, start: int) -> int:
        """Whether these bytes can still become a head; how many leading bytes to skip before going on.

        Args:
            data: The beginning of a head, not empty.
            start: Bytes before this index were looked at in an earlier call.

        Raises:
            Refused: No further bytes could make it a head that is let in.
        """
        limits = self._limits
        if data[:1] == b"\r":
            # RFC 9112 section 2.2: a server "SHOULD ignore at least one empty line" before the request line.
            empty = _EMPTY_LINES.match(data)
            if empty is not None:
                return empty.end()
            if len(data) > 1:
                raise Refused(MALFORMED)
        elif not data[:1].isalpha() or _HOPELESS.search(data, start):
            raise Refused(MALFORMED)
        if len(data) > limits.max_head_bytes:
            raise Refused(HEAD_SIZE)
        if len(data) > limits.max_target_bytes + _REQUEST_LINE_REST and b"\r" not in data:
            raise Refused(TARGET_SIZE)
        return 0

    def read_headers(self, headers: list[tuple[bytes, bytes]], version: str, head_bytes: int) -> tuple[int, bool]:
        """The body's length (or `CHUNKED`), and whether the client waits for `100 Continue`.

        Args:
            headers: Lower-case names and values without outer blanks, in their order.
            version: "1.0" or "1.1".
            head_bytes: Size of the head, which bounds every value.

        Raises:
            Refused: A head that two parsers could read differently, one beyond its caps, or a Host that is not ours.
        """
        limits = self._limits
        if len(headers) > limits.max_headers:
            raise Refused(HEAD_SIZE)
        if head_bytes > limits.max_header_value_bytes:
            longest = max((len(value) for _, value in headers), default=0)
            if longest > limits.max_header_value_bytes:
                raise Refused(HEAD_SIZE)
        fields = dict(headers)
        if len(fields) != len(headers):
            _refuse_repeats(headers)
        if not KNOWN.issuperset(fields) and not all(_NAME.fullmatch(name) for name in fields):
            raise Refused(HEADER)
        if b"upgrade" in fields:
            raise Refused(UPGRADE)
        host = fields.get(b"host")
        if host is None:
            raise Refused(HOST_COUNT)
        if host not in self._hosts and host.lower() not in self._hosts:
            raise Refused(HOST)
        length = self._read_length(fields, version)
        return length, b"expect" in fields and _expects(fields[b"expect"], version, length)

    def _read_length(self, fields: dict[bytes, bytes], version: str) -> int:
        """RFC 9112 section 6.3, without its room for repair."""
        length = fields.get(b"content-length")
        coding = fields.get(b"transfer-encoding")
        if coding is not None:
            if length is not None or version == "1.0":
                raise Refused(FRAMING)
            if coding != b"chunked":
                raise Refused(ENCODING)
            return CHUNKED
        if length is None:
            return 0
        if _LENGTH.fullmatch(length) is None:
            raise Refused(FRAMING)
        size = int(length)
        if size > self._limits.max_body_bytes:
            raise Refused(BODY_SIZE)
        return size


def _expects(expect: bytes, version: str, length: int) -> bool:
    """Whether to answer `100 Continue` before reading the body (RFC 9110 section 10.1.1)."""
    if expect.lower() != b"100-continue":
        raise Refused(EXPECT)
    return version == "1.1" and length != 0


def _refuse_repeats(headers: list[tuple[bytes, bytes]]) -> None:
    seen: set[bytes] = set()
    for name, _ in headers:
        if name in seen and (name in SINGLETONS or name.startswith(_SINGLETON_PREFIXES)):
            raise Refused(HOST_COUNT if name == b"host" else REPEATED)
        seen.add(name)


_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,8})\r\n")
_CHUNK_LINE_SO_FAR: Final = re.compile(rb"[0-9A-Fa-f]{0,8}\r?")


class ChunkGuard:
    """Follows a chunked body's frame (RFC 9112 section 7.1), to refuse extensions and trailers and to find its end."""

    __slots__ = ("_chunks_left", "_data_left", "_last", "_line", "_room", "done")

    def __init__(self, limits: EdgeLimits) -> None:
        self._room = limits.max_body_bytes
        self._chunks_left = limits.max_chunks
        self._data_left = 0
        self._line = b""
        self._last = False
        self.done = False

    def take(self, data: bytes) -> int:
        """How many of these bytes belong to the body; all of them until `done`.

        Raises:
            Refused: An extension, a trailer, a malformed size, or a body beyond its cap.
        """
        at, end = 0, len(data)
        while at < end and not self.done:
            if self._data_left:
                step = min(self._data_left, end - at)
                self._data_left -= step
                at += step
                continue
            newline = data.find(b"\n", at, at + 16)
            stop = newline + 1 if newline >= 0 else min(end, at + 16)
            self._line += data[at:stop]
            at = stop
            if self._last:
                self._read_last_line()
            elif self._line.endswith(b"\n"):
                self._read_size()
            elif _CHUNK_LINE_SO_FAR.fullmatch(self._line) is None:
                raise Refused(CHUNK)
        return at

    def _read_size(self) -> None:
        match = _CHUNK_LINE.fullmatch(self._line)
        if match is None:
            raise Refused(CHUNK)
        self._line = b""
        size = int(match[1], 16)
        self._last = size == 0
        if not self._last:
            self._room -= size
            self._chunks_left -= 1
            if self._room < 0 or self._chunks_left < 0:
                raise Refused(BODY_SIZE)
            self._data_left = size + 2  # and the CRLF behind it, which httptools checks

    def _read_last_line(self) -> None:
        if self._line == b"\r\n":
            self.done = True
        elif self._line != b"\r":
            raise Refused(TRAILERS)
