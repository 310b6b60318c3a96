"""The HTTP edge while its process ends: nothing new, no answer lost, every connection told that it closes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from edgelab import RunningEdge, read_to_end, request, running_edge, until
from twogate.web.edge_limits import EdgeLimits

# Long enough for a slow machine to use a connection before the sweep that closes idle ones.
LIMITS = EdgeLimits(sweep_seconds=3)


@pytest.fixture
def edge() -> Iterator[RunningEdge]:
    with running_edge(LIMITS) as made:
        yield made


def drain(edge: RunningEdge) -> None:
    """Let it begin to end."""
    edge.stop()
    until(edge.draining.is_set)


def last_answer(sock: socket.socket) -> bytes:
    """The body of the one answer that comes before the connection's end, which it must announce."""
    raw = read_to_end(sock)
    head, _, body = raw.partition(b"\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 200 OK\r\n"), raw
    assert b"connection: close" in head.split(b"\r\n")
    return body


def test_a_request_on_a_connection_that_was_idle_is_answered_and_its_connection_closed(edge: RunningEdge) -> None:
    with edge.connect() as used, edge.connect() as fresh:
        used.sendall(request(b"POST", b"/", body=b"one"))
        assert used.recv(65536).endswith(b"one")
        edge.marker()  # `fresh` was accepted before it
        drain(edge)
        for sock in (used, fresh):
            sock.sendall(request(b"POST", b"/", body=b"two"))
            assert last_answer(sock) == b"two"


def test_a_request_whose_head_or_body_is_on_its_way_is_answered(edge: RunningEdge) -> None:
    raw = request(b"POST", b"/", body=b"hello")
    with edge.connect() as head, edge.connect() as body:
        head.sendall(raw[:20])
        body.sendall(raw[:-3])
        edge.marker()
        until(lambda: sorted(edge.app.started) == ["/", "/marker"])
        drain(edge)
        head.sendall(raw[20:])
        body.sendall(raw[-3:])
        assert (last_answer(head), last_answer(body)) == (b"hello", b"hello")


def test_a_request_under_way_is_answered(edge: RunningEdge) -> None:
    with edge.connect() as sock:
        sock.sendall(request(b"POST", b"/slow", body=b"late"))
        until(lambda: "/slow" in edge.app.started)
        drain(edge)
        assert last_answer(sock) == b"late"


def test_no_connection_is_accepted_any_more(edge: RunningEdge) -> None:
    with edge.connect() as sock:
        sock.sendall(request(b"GET", b"/hang"))
        until(lambda: "/hang" in edge.app.started)
        drain(edge)

        def refused() -> bool:
            try:
                edge.connect().close()
            except ConnectionRefusedError:
                return True
            return False

        until(refused)


def test_idle_connections_do_not_hold_up_the_end() -> None:
    with running_edge(EdgeLimits(sweep_seconds=0.05)) as edge, edge.connect() as used, edge.connect() as fresh:
        used.sendall(request(b"GET", b"/"))
        used.recv(65536)
        edge.marker()
        drain(edge)
        assert (read_to_end(used), read_to_end(fresh)) == (b"", b"")
