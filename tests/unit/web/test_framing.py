"""The framing rules as functions; through sockets they are attacked in tests/attacks/test_http_framing.py."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twogate.web import framing
from twogate.web.edge_limits import EdgeLimits
from twogate.web.framing import ChunkGuard, HeadRules, Refused

RULES = HeadRules(EdgeLimits(), frozenset({"mcp.example.com"}))


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.data())
def test_the_end_of_a_chunked_body_is_found_however_it_is_cut(chunks: list[bytes], data: st.DataObject) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    stream = body + b"POST /next"
    guard = ChunkGuard(EdgeLimits())
    at = 0
    while not guard.done:
        step = data.draw(st.integers(1, 30))
        at += guard.take(stream[at : at + step])
    assert at == len(body)


@given(st.binary(max_size=60))
def test_no_bytes_at_all_make_the_chunk_guard_fail_otherwise_than_by_refusing(stream: bytes) -> None:
    guard = ChunkGuard(EdgeLimits())
    with contextlib.suppress(Refused):
        taken = guard.take(stream)
        assert taken == len(stream) or guard.done


@pytest.mark.parametrize(
    "target",
    [
        b"/",
        b"/mcp",
        b"/mcp/",
        b"/mcp/files?a=b&c=[d]|{e}",
        b"/.well-known/oauth-protected-resource/mcp",
        b"/a.b/...x/..a/a..",
        b"/%C3%A9",
        b"/a?",
        b"/a?b?c//d/../e%00",
    ],
)
def test_ordinary_targets_are_let_in(target: bytes) -> None:
    line = RULES.read_request_line(b"GET " + target + b" HTTP/1.1")
    assert (line.method, line.version) == ("GET", "1.1")
    assert target in {line.raw_path, line.raw_path + b"?" + line.query}


def test_matching_a_hostile_target_takes_linear_time() -> None:
    # With backtracking this would not end within the test's time limit.
    for hostile in (b"/" + b"a" * 8000 + b"\\", b"/a" * 4000 + b"\\", b"/%41" * 2000 + b"#"):
        with pytest.raises(Refused) as caught:
            RULES.read_request_line(b"GET " + hostile + b" HTTP/1.1")
        assert caught.value.refusal is framing.TARGET


def test_rules_without_any_host_are_misuse() -> None:
    with pytest.raises(ValueError, match="at least one host"):
        HeadRules(EdgeLimits(), frozenset())


@pytest.mark.parametrize("name", ["max_head_bytes", "body_seconds", "sweep_seconds", "max_connections"])
def test_limits_that_are_not_positive_are_misuse(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        EdgeLimits(**{name: 0})


def test_every_refusal_is_a_whole_answer_that_ends_the_connection() -> None:
    refusals = [value for value in vars(framing).values() if isinstance(value, framing.Refusal)]
    assert len(refusals) > 15
    for refusal in refusals:
        head, _, body = refusal.answer([(b"date", b"today")]).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % refusal.status)
        assert b"\r\nconnection: close\r\n" in head
        assert head.endswith(b"content-length: %d" % len(body))
        assert json.loads(body)["error_description"] == refusal.text


@pytest.mark.parametrize(
    ("stream", "refusal"),
    [(b"0\r\nX: 1\r\n\r\n", framing.TRAILERS), (b"1;a\r\n", framing.CHUNK), (b"1" * 9, framing.CHUNK)],
)
def test_the_chunk_guard_says_what_it_refuses(stream: bytes, refusal: framing.Refusal) -> None:
    with pytest.raises(Refused) as caught:
        ChunkGuard(EdgeLimits()).take(stream)
    assert caught.value.refusal is refusal
