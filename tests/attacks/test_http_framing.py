"""Requests that two HTTP implementations could read differently, and clients that hold resources: none reaches the
application (RFC 9112 section 11, request smuggling, Slowloris, DNS rebinding)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from edgelab import HOST, PATIENCE, RunningEdge, answer, read_to_end, refused, request, running_edge, until
from twogate.core.errors import ErrorCode
from twogate.web.edge_limits import EdgeLimits

H = b"Host: " + HOST + b"\r\n"
MALFORMED = ErrorCode.REQUEST_MALFORMED
LARGE = ErrorCode.TOO_LARGE
CHUNKS = b"POST / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n"


def get(target: bytes = b"/", headers: bytes = b"", host: bytes = H, version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + host + headers + b"\r\n"


def post(headers: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return b"POST / " + version + b"\r\n" + H + headers + b"\r\n" + body


TRICKS: dict[str, tuple[bytes, int, ErrorCode]] = {
    # What starts another protocol.
    "upgrade to h2c": (get(headers=b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"), 400, MALFORMED),
    "upgrade to h2c with a body that is a request": (
        post(b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 47\r\n", get(b"/smuggled")),
        400,
        MALFORMED,
    ),
    "upgrade to websocket": (
        get(headers=b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: YQ==\r\n"),
        400,
        MALFORMED,
    ),
    "upgrade without connection": (get(headers=b"Upgrade: h2c\r\n"), 400, MALFORMED),
    "connect": (b"CONNECT upstream:443 HTTP/1.1\r\n" + H + b"\r\n", 501, ErrorCode.METHOD_NOT_ALLOWED),
    "trace": (b"TRACE / HTTP/1.1\r\n" + H + b"\r\n", 501, ErrorCode.METHOD_NOT_ALLOWED),
    "unknown method": (b"BREW / HTTP/1.1\r\n" + H + b"\r\n", 501, ErrorCode.METHOD_NOT_ALLOWED),
    "lower-case method": (b"get / HTTP/1.1\r\n" + H + b"\r\n", 501, ErrorCode.METHOD_NOT_ALLOWED),
    "tls on the plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, MALFORMED),
    # Versions.
    "http 2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, MALFORMED),
    "http 2.0": (get(version=b"HTTP/2.0"), 505, MALFORMED),
    "http 1.2": (get(version=b"HTTP/1.2"), 505, MALFORMED),
    "http 0.9": (b"GET /\r\n\r\n", 400, MALFORMED),
    "rtsp": (get(version=b"RTSP/1.1"), 400, MALFORMED),
    "lower-case version": (get(version=b"http/1.1"), 400, MALFORMED),
    "no version": (b"GET /\r\n" + H + b"\r\n", 400, MALFORMED),
    "blank behind version": (b"GET / HTTP/1.1 \r\n" + H + b"\r\n", 400, MALFORMED),
    "two blanks in the request line": (b"GET  / HTTP/1.1\r\n" + H + b"\r\n", 400, MALFORMED),
    "tab in the request line": (b"GET\t/ HTTP/1.1\r\n" + H + b"\r\n", 400, MALFORMED),
    "half an empty line first": (b"\r" + get(), 400, MALFORMED),
    # Host.
    "no host": (get(host=b""), 400, MALFORMED),
    "no host in 1.0": (get(host=b"", version=b"HTTP/1.0"), 400, MALFORMED),
    "two hosts": (get(headers=H), 400, MALFORMED),
    "two different hosts": (get(headers=b"Host: evil.example\r\n"), 400, MALFORMED),
    "evil host": (get(host=b"Host: evil.example\r\n"), 403, ErrorCode.HOST_REFUSED),
    "empty host": (get(host=b"Host:\r\n"), 403, ErrorCode.HOST_REFUSED),
    "host with user": (get(host=b"Host: a@" + HOST + b"\r\n"), 403, ErrorCode.HOST_REFUSED),
    "host with another port": (get(host=b"Host: " + HOST + b":81\r\n"), 403, ErrorCode.HOST_REFUSED),
    "host list": (get(host=b"Host: " + HOST + b", evil.example\r\n"), 403, ErrorCode.HOST_REFUSED),
    "host with trailing blank": (get(host=b"Host: " + HOST + b" \r\n"), 400, MALFORMED),
    # Targets.
    "absolute form": (get(b"http://" + HOST + b"/"), 400, MALFORMED),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n", 400, MALFORMED),
    "authority form": (get(HOST + b":443"), 400, MALFORMED),
    "double slash": (get(b"//evil.example/"), 400, MALFORMED),
    "double slash inside": (get(b"/a//b"), 400, MALFORMED),
    "fragment": (get(b"/a#b"), 400, MALFORMED),
    "fragment in query": (get(b"/a?b#c"), 400, MALFORMED),
    "backslash": (get(b"/a\\b"), 400, MALFORMED),
    "backslash in query": (get(b"/a?b\\c"), 400, MALFORMED),
    "control character": (get(b"/a\x01b"), 400, MALFORMED),
    "delete character": (get(b"/a\x7fb"), 400, MALFORMED),
    "nul in target": (get(b"/a\x00b"), 400, MALFORMED),
    "raw utf-8": (get("/ä".encode()), 400, MALFORMED),
    "dot segment": (get(b"/a/./b"), 400, MALFORMED),
    "dot-dot segment": (get(b"/mcp/../console"), 400, MALFORMED),
    "dot-dot at the end": (get(b"/mcp/.."), 400, MALFORMED),
    "dot-dot before query": (get(b"/mcp/..?a"), 400, MALFORMED),
    "encoded slash": (get(b"/a%2fb"), 400, MALFORMED),
    "encoded slash, upper case": (get(b"/a%2Fb"), 400, MALFORMED),
    "encoded dots": (get(b"/%2e%2E/console"), 400, MALFORMED),
    "encoded nul": (get(b"/a%00"), 400, MALFORMED),
    "encoded newline": (get(b"/a%0d%0ab"), 400, MALFORMED),
    "encoded backslash": (get(b"/a%5Cb"), 400, MALFORMED),
    "broken percent": (get(b"/a%zz"), 400, MALFORMED),
    "percent at the end": (get(b"/a%2"), 400, MALFORMED),
    "long target": (get(b"/" + b"a" * 8192), 414, LARGE),
    "long target without end": (b"GET /" + b"a" * 9000, 414, LARGE),
    # How long the body is.
    "chunked in 1.0": (post(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", version=b"HTTP/1.0"), 400, MALFORMED),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 501, MALFORMED),
    "chunked twice in one": (post(b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n"), 400, MALFORMED),
    "chunked in two headers": (
        post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"),
        400,
        MALFORMED,
    ),
    "identity": (post(b"Transfer-Encoding: identity\r\n"), 400, MALFORMED),
    "xchunked": (post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), 400, MALFORMED),
    "upper-case chunked": (post(b"Transfer-Encoding: CHUNKED\r\n", b"0\r\n\r\n"), 501, MALFORMED),
    "chunked with trailing blank": (post(b"Transfer-Encoding: chunked \r\n", b"0\r\n\r\n"), 400, MALFORMED),
    "chunked with tab": (post(b"Transfer-Encoding:\tchunked\t\r\n", b"0\r\n\r\n"), 400, MALFORMED),
    "length and chunked": (post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400, MALFORMED),
    "chunked and length": (post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"), 400, MALFORMED),
    "two equal lengths": (post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"), 400, MALFORMED),
    "two lengths": (post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello"), 400, MALFORMED),
    "length list": (post(b"Content-Length: 5, 5\r\n", b"hello"), 400, MALFORMED),
    "length with zeros": (post(b"Content-Length: 005\r\n", b"hello"), 400, MALFORMED),
    "signed length": (post(b"Content-Length: +5\r\n", b"hello"), 400, MALFORMED),
    "negative length": (post(b"Content-Length: -5\r\n", b"hello"), 400, MALFORMED),
    "hexadecimal length": (post(b"Content-Length: 0x5\r\n", b"hello"), 400, MALFORMED),
    "empty length": (post(b"Content-Length:\r\n"), 400, MALFORMED),
    "length with trailing blank": (post(b"Content-Length: 5 \r\n", b"hello"), 400, MALFORMED),
    "length beyond 64 bits": (post(b"Content-Length: 18446744073709551621\r\n", b"hello"), 400, MALFORMED),
    "declared too large": (post(b"Content-Length: 999999999\r\n"), 413, LARGE),
    "length folded": (post(b"Content-Length:\r\n 5\r\n", b"hello"), 400, MALFORMED),
    # Chunks; all in one packet, so the application learns nothing of the request at all.
    "chunk extension": (CHUNKS + b"5;a=b\r\nhello\r\n0\r\n\r\n", 400, MALFORMED),
    "chunk extension without value": (CHUNKS + b"5;a\r\nhello\r\n0\r\n\r\n", 400, MALFORMED),
    "extension of the last chunk": (CHUNKS + b"5\r\nhello\r\n0;a=b\r\n\r\n", 400, MALFORMED),
    "chunk size with blank": (CHUNKS + b"5 \r\nhello\r\n0\r\n\r\n", 400, MALFORMED),
    "chunk size with prefix": (CHUNKS + b"0x5\r\nhello\r\n0\r\n\r\n", 400, MALFORMED),
    "chunk size overflow": (CHUNKS + b"10000000000000005\r\nhello\r\n0\r\n\r\n", 400, MALFORMED),
    "empty chunk size": (CHUNKS + b"\r\nhello\r\n0\r\n\r\n", 400, MALFORMED),
    "chunk ended by LF": (CHUNKS + b"5\nhello\r\n0\r\n\r\n", 400, MALFORMED),
    "chunk without CRLF behind": (CHUNKS + b"5\r\nhelloXX0\r\n\r\n", 400, MALFORMED),
    "chunk longer than its size": (CHUNKS + b"3\r\nhello\r\n0\r\n\r\n", 400, MALFORMED),
    "chunk too large": (CHUNKS + b"fffffff\r\nhello", 413, LARGE),
    "trailer": (CHUNKS + b"5\r\nhello\r\n0\r\nX-Late: 1\r\n\r\n", 400, MALFORMED),
    "authorization as trailer": (CHUNKS + b"0\r\nAuthorization: Bearer x\r\n\r\n", 400, MALFORMED),
    # Headers.
    "underscore": (get(headers=b"Mcp_Session_Id: 1\r\n"), 400, MALFORMED),
    "blank before colon": (get(headers=b"Authorization : Bearer x\r\n"), 400, MALFORMED),
    "blank in name": (get(headers=b"X Y: 1\r\n"), 400, MALFORMED),
    "empty name": (get(headers=b": 1\r\n"), 400, MALFORMED),
    "parenthesis in name": (get(headers=b"X(Y: 1\r\n"), 400, MALFORMED),
    "utf-8 in name": (get(headers="Ä: 1\r\n".encode()), 400, MALFORMED),
    "no colon": (get(headers=b"Authorization\r\n"), 400, MALFORMED),
    "folded header": (get(headers=b"X-A: 1\r\n 2\r\n"), 400, MALFORMED),
    "folded with tab": (get(headers=b"X-A: 1\r\n\t2\r\n"), 400, MALFORMED),
    "folded before the first header": (b"GET / HTTP/1.1\r\n X: 1\r\n" + H + b"\r\n", 400, MALFORMED),
    "bare LF": (get(headers=b"X-A: 1\nX-B: 2\r\n"), 400, MALFORMED),
    "bare LF everywhere": (get().replace(b"\r\n", b"\n"), 400, MALFORMED),
    "bare CR": (get(headers=b"X-A: 1\rX-B: 2\r\n"), 400, MALFORMED),
    "CR CR LF": (get(headers=b"X-A: 1\r\r\n"), 400, MALFORMED),
    "LF before the empty line": (get(headers=b"X-A: 1\n"), 400, MALFORMED),
    "nul in value": (get(headers=b"X-A: 1\x002\r\n"), 400, MALFORMED),
    "control character in value": (get(headers=b"X-A: 1\x082\r\n"), 400, MALFORMED),
    "too many headers": (get(headers=b"".join(b"X-%d: 1\r\n" % n for n in range(100))), 431, LARGE),
    "long value": (get(headers=b"X-A: " + b"a" * 16385 + b"\r\n"), 431, LARGE),
    "long value repeated shorter": (get(headers=b"X-A: " + b"a" * 16385 + b"\r\nX-A: 1\r\n"), 431, LARGE),
    "large head": (get(headers=b"".join(b"X-%d: " % n + b"a" * 8000 + b"\r\n" for n in range(5))), 431, LARGE),
    "large head without end": (b"GET / HTTP/1.1\r\n" + H + b"X: 1\r\n" * 6000, 431, LARGE),
    "unknown expectation": (get(headers=b"Expect: 200-ok\r\n"), 417, MALFORMED),
    "two expectations": (get(headers=b"Expect: 100-continue\r\nExpect: 100-continue\r\n"), 400, MALFORMED),
}
for _name in [
    "Authorization",
    "DPoP",
    "Origin",
    "Content-Type",
    "Cookie",
    "Signature",
    "Signature-Input",
    "X-Forwarded-Client-Cert",
    "Mcp-Session-Id",
    "Mcp-Protocol-Version",
    "Mcp-Method",
    "Mcp-Param-Anything",
    "Twogate-Session",
    "Twogate-Operation-Token",
    "Last-Event-ID",
]:
    _line = _name.encode() + b": a\r\n"
    TRICKS[f"repeated {_name}"] = (get(headers=_line + b"Accept: */*\r\n" + _line.lower()), 400, MALFORMED)


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningEdge]:
    with running_edge(EdgeLimits(sweep_seconds=0.05, linger_seconds=0.2)) as edge:
        yield edge


@pytest.fixture
def edge(shared: RunningEdge) -> RunningEdge:
    shared.marker()
    for seen in (shared.app.started, shared.app.finished, shared.app.disconnected, shared.refusals):
        seen.clear()
    return shared


@pytest.mark.parametrize("trick", TRICKS)
def test_the_trick_is_refused_and_the_application_sees_nothing(edge: RunningEdge, trick: str) -> None:
    raw, status, code = TRICKS[trick]
    got_status, body = refused(edge.exchange(raw))
    assert got_status == status
    assert set(body) == {"error", "error_description"}
    assert edge.refusals == [("127.0.0.1", code)]
    edge.marker()
    assert edge.app.started == ["/marker"]


@pytest.mark.parametrize("trick", TRICKS)
def test_the_trick_is_refused_when_it_comes_byte_by_byte(edge: RunningEdge, trick: str) -> None:
    raw, status, code = TRICKS[trick]
    if len(raw) > 4000:
        pytest.skip("a test of sizes, not of packets")
    with edge.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in raw:
            try:
                sock.send(bytes([byte]))
            except (BrokenPipeError, ConnectionResetError):
                break
        got_status, _ = refused(read_to_end(sock))
    # A body in an unknown coding is met before or after its declared length, both are refusals.
    assert got_status == status
    assert edge.refusals == [("127.0.0.1", code)]
    edge.marker()
    # The head of a request may be seen before its body turns out to be bad, the whole request never.
    assert [path for _, path, _ in edge.app.finished] == ["/marker"]


@pytest.mark.parametrize("trick", TRICKS)
def test_the_trick_is_refused_behind_a_good_request_in_the_same_packet(edge: RunningEdge, trick: str) -> None:
    raw, status, _ = TRICKS[trick]
    received = edge.exchange(request(b"POST", b"/good", body=b"first") + raw)
    first, separator, rest = received.partition(b"\r\n\r\nfirst")
    assert first.startswith(b"HTTP/1.1 200 ")
    assert separator
    assert refused(rest)[0] == status
    edge.marker()
    assert edge.app.started == ["/good", "/marker"]


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"0\r\nAuthorization: Bearer x\r\n\r\n", id="trailer"),
        pytest.param(b"5;a=b\r\nhello\r\n0\r\n\r\n", id="extension"),
        pytest.param(b"zz\r\n", id="size"),
    ],
)
def test_a_body_that_turns_bad_later_ends_the_request_for_the_application(edge: RunningEdge, rest: bytes) -> None:
    with edge.connect() as sock:
        sock.sendall(CHUNKS.replace(b" / ", b" /half ") + b"5\r\nhello\r\n")
        until(lambda: edge.app.started == ["/half"])
        sock.sendall(rest)
        assert refused(read_to_end(sock))[0] == 400
    until(lambda: edge.app.disconnected == ["/half"])
    assert edge.app.finished == []
    assert edge.refusals == [("127.0.0.1", MALFORMED)]


def test_bytes_behind_a_refused_request_are_not_read_as_a_request(edge: RunningEdge) -> None:
    refused(edge.exchange(post(b"Content-Length: 005\r\n", b"hello") + get(b"/smuggled")))
    edge.marker()
    assert edge.app.started == ["/marker"]


def test_bytes_behind_connection_close_are_not_read_as_a_request(edge: RunningEdge) -> None:
    received = edge.exchange(get(b"/last", b"Connection: close\r\n") + get(b"/smuggled"))
    assert received.count(b"HTTP/1.1") == 1
    edge.marker()
    assert edge.app.started == ["/last", "/marker"]


def test_the_refusal_repeats_nothing_of_the_request(edge: RunningEdge) -> None:
    assert b"Sekret" not in edge.exchange(get(headers=b"Authorization: Sekret\r\nAuthorization: Sekret\r\n"))


# --- what must go on working


def test_a_connection_is_kept_for_the_next_request(edge: RunningEdge) -> None:
    with edge.connect() as sock:
        for body in (b"one", b"two"):
            sock.sendall(request(b"POST", b"/kept", body=body))
            assert answer(sock) == (200, body)
    assert edge.app.finished == [("POST", "/kept", b"one"), ("POST", "/kept", b"two")]


def test_a_chunked_body_arrives_whole_however_it_is_cut(edge: RunningEdge) -> None:
    raw = CHUNKS + b"5\r\nhello\r\n00B\r\n, beautiful\r\n6\r\n world\r\n0\r\n\r\n"
    for cut in range(1, len(raw)):
        with edge.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(raw[:cut])
            sock.sendall(raw[cut:] + get(b"/next"))
            assert answer(sock).body == b"hello, beautiful world"
            assert answer(sock).status == 200
    assert edge.refusals == []


def test_pipelined_requests_are_answered_in_order(edge: RunningEdge) -> None:
    bodies = [b"%d" % n for n in range(20)]
    received = edge.exchange(
        b"".join(request(b"POST", b"/p", body=body) for body in bodies) + get(b"/end", b"Connection: close\r\n")
    )
    assert received.count(b"HTTP/1.1 200 ") == 21
    assert [body for _, _, body in edge.app.finished] == [*bodies, b""]


def test_head_is_answered_without_a_body(edge: RunningEdge) -> None:
    received = edge.exchange(b"HEAD /large HTTP/1.1\r\n" + H + b"Connection: close\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"content-length: 16000000\r\nconnection: close\r\n\r\n")


def test_a_client_that_expects_100_continue_is_told_to_go_on(edge: RunningEdge) -> None:
    with edge.connect() as sock:
        sock.sendall(post(b"Expect: 100-continue\r\nContent-Length: 5\r\n"))
        assert sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"hello")
        assert answer(sock).body == b"hello"


def test_a_final_answer_instead_of_100_continue_ends_the_connection(edge: RunningEdge) -> None:
    received = edge.exchange(
        b"POST /early HTTP/1.1\r\n" + H + b"Expect: 100-continue\r\nContent-Length: 60\r\n\r\n", get(b"/smuggled")
    )
    assert received.startswith(b"HTTP/1.1 200 ")
    assert edge.app.started == ["/early"]


def test_the_body_of_a_request_answered_early_is_thrown_away(edge: RunningEdge) -> None:
    with edge.connect() as sock:
        sock.sendall(b"POST /early HTTP/1.1\r\n" + H + b"Content-Length: 300000\r\n\r\n")
        assert answer(sock).status == 200
        sock.sendall(b"x" * 300_000 + request(b"POST", b"/next", body=b"next"))
        assert answer(sock).body == b"next"


@pytest.mark.parametrize("host", [HOST, HOST.upper()])
def test_host_is_compared_without_regard_to_case(edge: RunningEdge, host: bytes) -> None:
    assert edge.exchange(request(b"GET", b"/", b"Connection: close", host=host)).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]"])
def test_loopback_names_with_the_bound_port_are_accepted(edge: RunningEdge, name: str) -> None:
    host = f"{name}:{edge.url.rpartition(':')[2]}".encode()
    assert edge.exchange(request(b"GET", b"/", b"Connection: close", host=host)).startswith(b"HTTP/1.1 200 ")


def test_an_old_client_may_speak_http_1_0(edge: RunningEdge) -> None:
    received = edge.exchange(get(b"/old", version=b"HTTP/1.0"))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert edge.app.scope["http_version"] == "1.0"


@pytest.mark.parametrize("parts", [(b"\r\n",), (b"\r", b"\n"), (b"\r\n\r\n",)])
def test_empty_lines_before_a_request_are_ignored(edge: RunningEdge, parts: tuple[bytes, ...]) -> None:
    assert edge.exchange(*parts, get(b"/", b"Connection: close\r\n")).startswith(b"HTTP/1.1 200 ")


def test_outer_blanks_of_header_values_are_stripped(edge: RunningEdge) -> None:
    edge.exchange(get(headers=b"Mcp-Method: \t tools/call \t\r\nX-Empty:  \r\nConnection: close\r\n"))
    assert (b"mcp-method", b"tools/call") in edge.app.headers
    assert (b"x-empty", b"") in edge.app.headers


def test_headers_that_are_lists_may_be_repeated(edge: RunningEdge) -> None:
    received = edge.exchange(get(headers=b"Accept: a/b\r\nAccept: c/d\r\nConnection: close\r\n"))
    assert received.startswith(b"HTTP/1.1 200 ")
    assert [value for name, value in edge.app.headers if name == b"accept"] == [b"a/b", b"c/d"]


def test_path_and_query_reach_the_application_decoded_and_raw(edge: RunningEdge) -> None:
    edge.exchange(get(b"/.well-known/caf%C3%A9/?a=/../b%2f&c", b"Connection: close\r\n"))
    scope = edge.app.scope
    assert scope["path"] == "/.well-known/café/"
    assert scope["raw_path"] == b"/.well-known/caf%C3%A9/"
    assert scope["query_string"] == b"a=/../b%2f&c"


# --- clients that hold resources

HASTY = EdgeLimits(
    first_byte_seconds=0.2,
    head_seconds=0.2,
    body_seconds=0.2,
    idle_seconds=0.2,
    stalled_write_seconds=0.3,
    linger_seconds=0.2,
    sweep_seconds=0.02,
)


@pytest.fixture(scope="module")
def hasty() -> Iterator[RunningEdge]:
    with running_edge(HASTY) as edge:
        yield edge


@pytest.fixture
def impatient(hasty: RunningEdge) -> RunningEdge:
    for seen in (hasty.app.started, hasty.app.finished, hasty.app.disconnected, hasty.refusals):
        seen.clear()
    return hasty


def test_a_silent_connection_is_closed(impatient: RunningEdge) -> None:
    assert impatient.exchange() == b""
    assert impatient.refusals == []


def test_an_idle_connection_is_closed(impatient: RunningEdge) -> None:
    assert impatient.exchange(get()).startswith(b"HTTP/1.1 200 ")


def test_a_dripping_head_is_refused(impatient: RunningEdge) -> None:
    with impatient.connect() as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n")

        def drip_is_refused() -> bool:
            sock.sendall(b"X-A: 1\r\n")
            return bool(impatient.refusals)

        until(drip_is_refused)
        assert refused(read_to_end(sock))[0] == 408
    assert impatient.refusals == [("127.0.0.1", ErrorCode.BODY_TIMEOUT)]
    assert impatient.app.started == []


@pytest.mark.parametrize("head", [post(b"Content-Length: 1000000\r\n"), CHUNKS], ids=["length", "chunked"])
def test_a_dripping_body_is_refused(impatient: RunningEdge, head: bytes) -> None:
    with impatient.connect() as sock:
        sock.sendall(head)

        def drip_is_refused() -> bool:
            sock.sendall(b"1\r\na\r\n")
            return bool(impatient.refusals)

        until(drip_is_refused)
        assert refused(read_to_end(sock))[0] == 408
    assert impatient.refusals == [("127.0.0.1", ErrorCode.BODY_TIMEOUT)]
    until(lambda: impatient.app.disconnected == ["/"])
    assert impatient.app.finished == []


def test_a_client_that_does_not_read_its_answer_is_dropped(impatient: RunningEdge) -> None:
    with impatient.connect() as sock:
        sock.sendall(get(b"/large"))
        # Nobody reads, so the application gets rid of its answer only because the connection was dropped.
        assert impatient.app.sent_large.wait(PATIENCE)
        assert len(read_to_end(sock)) < 16_000_000


def test_an_answer_may_take_longer_than_any_deadline_of_the_client(impatient: RunningEdge) -> None:
    with impatient.connect() as sock:
        sock.sendall(get(b"/slow"))
        assert answer(sock).status == 200


def test_a_client_that_goes_away_is_seen_by_the_application(impatient: RunningEdge) -> None:
    with impatient.connect() as sock:
        sock.sendall(get(b"/hang"))
        until(lambda: bool(impatient.app.finished))
    until(lambda: impatient.app.disconnected == ["/hang"])


def test_too_many_connections_from_one_address_are_refused() -> None:
    limits = EdgeLimits(max_connections_per_address=2)
    with running_edge(limits) as edge, edge.connect() as one:
        with edge.connect() as two:
            for sock in (one, two):
                sock.sendall(get())
                answer(sock)
            assert refused(edge.exchange())[0] == 503
            assert edge.refusals == [("127.0.0.1", ErrorCode.RATE_LIMITED)]

        def room_again() -> bool:
            return edge.exchange(get(headers=b"Connection: close\r\n")).startswith(b"HTTP/1.1 200 ")

        until(room_again)


def test_too_many_connections_in_all_are_refused() -> None:
    with running_edge(EdgeLimits(max_connections=1)) as edge, edge.connect() as one:
        one.sendall(get())
        answer(one)
        assert refused(edge.exchange(get(b"/more")))[0] == 503
        assert edge.app.started == ["/"]


def test_a_flood_of_pipelined_bytes_ends_the_connection() -> None:
    with running_edge(EdgeLimits(max_ahead_bytes=1000)) as edge:
        with edge.connect() as sock:
            sock.sendall(get(b"/hang"))
            until(lambda: edge.app.started == ["/hang"])
            sock.sendall(get(b"/more") * 1000)
            assert read_to_end(sock) == b""
        until(lambda: edge.refusals == [("127.0.0.1", ErrorCode.RATE_LIMITED)])
        until(lambda: edge.app.disconnected == ["/hang"])
        assert edge.app.started == ["/hang"]


@pytest.mark.parametrize(
    "body",
    [pytest.param(b"1\r\na\r\n" * 11, id="chunks"), pytest.param(b"40\r\n" + b"a" * 64 + b"\r\n1\r\n", id="bytes")],
)
def test_a_chunked_body_is_counted(body: bytes) -> None:
    with running_edge(EdgeLimits(max_body_bytes=64, max_chunks=10)) as edge:
        assert refused(edge.exchange(CHUNKS + body))[0] == 413
        assert edge.refusals == [("127.0.0.1", LARGE)]
        edge.marker()
        assert edge.app.started == ["/marker"]
