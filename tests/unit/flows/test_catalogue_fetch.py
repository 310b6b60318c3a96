"""Asking a server for its tools: both eras, every page, and what a hostile or broken server answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from cataloguelab import (
    LATEST_HANDSHAKE,
    MODERN,
    Reply,
    ToolServer,
    annotated,
    error_of,
    result_of,
    status,
    tool,
)
from gatelab import response, sse
from harness.upstream import Seen
from rawlab import http_answer
from twogate.adapters.upstream.http import HttpUpstream
from twogate.config.values import AgentKey
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway import catalogue_fetch, tool_list
from twogate.flows.gateway.catalogue_fetch import OWNER, fetch_tools, owner_of
from twogate.flows.gateway.tool_list import Era, ToolList
from twogate.flows.gateway.upstream import UpstreamAnswer, UpstreamRequest

TENANT = "acme"
ONE = ((tool("look"),),)


async def fetched(server: ToolServer, era: Era | None = None, silence: float = 10.0) -> ToolList:
    return await fetch_tools(server.upstream, TENANT, silence, era)


async def refusal(server: ToolServer, silence: float = 10.0) -> GateError:
    with pytest.raises(GateError) as caught:
        await fetched(server, silence=silence)
    return caught.value


def only(method: str, reply: Callable[[Seen], Reply]) -> Callable[[Seen], Reply]:
    """Override the answers to one method."""
    return lambda seen: reply(seen) if seen.body and seen.message["method"] == method else None


async def test_a_modern_server_is_asked_for_every_page_with_an_envelope_and_nothing_of_a_caller() -> None:
    pages = ((tool("a"), tool("b")), (), (annotated("c", region="Region"),))
    async with ToolServer(pages) as server:
        listed = await fetched(server)
        assert list(listed.tools) == ["a", "b", "c"]
        assert (listed.era, listed.lifetime) == (Era.MODERN, None)
        assert server.methods == ["server/discover", "tools/list", "tools/list", "tools/list"]
        for seen in server.seen:
            assert seen.headers["mcp-protocol-version"] == MODERN
            assert seen.headers["mcp-method"] == seen.message["method"]
            assert {name for name in seen.headers if name.startswith(("mcp-", "auth", "twogate"))} == {
                "mcp-protocol-version",
                "mcp-method",
            }
            meta = seen.message["params"]["_meta"]
            assert meta["io.modelcontextprotocol/protocolVersion"] == MODERN
            assert meta["io.modelcontextprotocol/clientCapabilities"] == {}
            assert meta["io.modelcontextprotocol/clientInfo"]["name"] == "twogate"
        assert [seen.message["params"].get("cursor") for seen in server.seen] == [None, None, "1", "2"]
        assert len({seen.message["id"] for seen in server.seen}) == 4


async def test_an_answer_may_be_a_stream_in_which_the_server_says_and_asks_other_things_first() -> None:
    def streamed(seen: Seen) -> bytes:
        progress = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}}
        asks = {"jsonrpc": "2.0", "id": seen.message["id"], "method": "sampling/createMessage", "params": {}}
        result: dict[str, Any] = {"tools": [tool("look")]}
        if seen.message["method"] == "server/discover":
            result = {"supportedVersions": [MODERN]}
        answer = response(result, seen.message["id"])
        body = b": hello\n\n" + sse(progress, asks, answer)
        return http_answer(body, content_type=b"text/event-stream")

    async with ToolServer(override=streamed) as server:
        assert list((await fetched(server)).tools) == ["look"]


@pytest.mark.parametrize(
    ("ttls", "lifetime"),
    [
        ((None, None), None),
        ((0, None), 0.0),
        ((5000, 60_000), 5.0),
        ((60_000, 1500), 1.5),
        ((-7, 3), 0.0),
        ((True, "9", ), None),
    ],
)  # fmt: skip
async def test_the_shortest_ttl_of_all_pages_counts(ttls: tuple[object, object], lifetime: float | None) -> None:
    def page(seen: Seen) -> bytes:
        first = "cursor" not in seen.message["params"]
        ttl = ttls[0 if first else 1]
        more = {"nextCursor": "2"} if first else {}
        return result_of(seen, tools=[], **more, **({} if ttl is None else {"ttlMs": ttl}))

    async with ToolServer(override=only("tools/list", page)) as server:
        assert (await fetched(server)).lifetime == lifetime


def modern_error(code: int, **data: Any) -> Callable[[Seen], Reply]:
    return lambda seen: error_of(seen, code, b"400 Bad Request", **({"data": data} if data else {}))


@pytest.mark.parametrize(
    "probe",
    [
        lambda seen: error_of(seen, -32601),
        lambda seen: error_of(seen, -32601, b"404 Not Found"),
        lambda seen: error_of(seen, -32600, b"400 Bad Request"),
        modern_error(-32022, supported=[LATEST_HANDSHAKE], requested=MODERN),
        modern_error(-32022),
        lambda seen: status(b"400 Bad Request"),
        lambda seen: status(b"400 Bad Request", b"{", b"application/json"),
        lambda seen: status(b"404 Not Found", b"<html>", b"text/html"),
        lambda seen: status(b"405 Method Not Allowed"),
        lambda seen: status(b"406 Not Acceptable", json.dumps({"error": "x"}).encode(), b"application/json"),
        lambda seen: result_of(seen, supportedVersions=[LATEST_HANDSHAKE]),
        lambda seen: result_of(seen, supportedVersions="2026-07-28"),
        result_of,
    ],
)
async def test_a_server_that_is_no_modern_one_is_asked_within_a_session_that_is_ended_at_once(
    probe: Callable[[Seen], Reply],
) -> None:
    pages = ((tool("a"),), (tool("b"),))
    async with ToolServer(pages, session="s-1", override=only("server/discover", probe)) as server:
        listed = await fetched(server)
        assert list(listed.tools) == ["a", "b"]
        assert (listed.era, listed.lifetime) == (Era.HANDSHAKE, None)
        hello, ready, *lists, end = server.seen[1:]
        assert server.methods[1:] == [
            "initialize", "notifications/initialized", "tools/list", "tools/list", "DELETE",
        ]  # fmt: skip
        assert hello.message["params"]["protocolVersion"] == LATEST_HANDSHAKE
        assert hello.message["params"]["capabilities"] == {}
        assert "mcp-session-id" not in hello.headers
        for seen in (ready, *lists, end):
            assert seen.headers["mcp-session-id"] == "s-1"
            assert seen.headers["mcp-protocol-version"] == LATEST_HANDSHAKE
            assert "mcp-method" not in seen.headers
        assert all("_meta" not in seen.message.get("params", {}) for seen in lists)


async def test_the_version_that_the_server_chooses_is_the_one_in_force() -> None:
    def welcome(seen: Seen) -> bytes:
        return result_of(seen, protocolVersion="2025-03-26", capabilities={})

    async with ToolServer(ONE, modern=False, override=only("initialize", welcome)) as server:
        assert list((await fetched(server)).tools) == ["look"]
        assert server.seen[-1].headers["mcp-protocol-version"] == "2025-03-26"
        assert server.methods[-1] == "tools/list", "there is no session to end"


@pytest.mark.parametrize(
    ("probe", "debug"),
    [
        (status(b"401 Unauthorized"), "wants a credential"),
        (status(b"403 Forbidden", b"{}", b"application/json"), "wants a credential"),
        (status(b"500 Internal Server Error"), "status 500"),
        (status(b"503 Service Unavailable"), "status 503"),
        (status(b"202 Accepted"), "status 202"),
    ],
)
async def test_what_only_says_that_nothing_can_be_had_now_is_no_reason_to_try_the_handshake(
    probe: bytes, debug: str
) -> None:
    async with ToolServer(ONE, override=lambda seen: probe) as server:
        error = await refusal(server)
        assert error.code is ErrorCode.UPSTREAM_UNAVAILABLE
        assert debug in error.debug
        assert server.methods == ["server/discover"]


async def test_a_server_of_other_versions_only_is_named_as_what_it_is() -> None:
    probe = modern_error(-32022, supported=["2099-01-01"], requested=MODERN)
    async with ToolServer(ONE, override=only("server/discover", probe)) as server:
        error = await refusal(server)
        assert (error.code, server.methods) == (ErrorCode.UPSTREAM_UNAVAILABLE, ["server/discover"])
        assert "no version" in error.debug


async def test_a_server_that_cannot_be_reached_is_unavailable() -> None:
    async with ToolServer(ONE) as server:
        await server._server.__aexit__(None, None, None)
        assert (await refusal(server)).code is ErrorCode.UPSTREAM_UNAVAILABLE


async def test_silence_to_the_probe_is_no_verdict_to_be_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_fetch, "PROBE_SECONDS", 0.05)
    never = asyncio.Event()
    async with ToolServer(ONE, override=only("server/discover", lambda seen: never)) as server:
        listed = await fetched(server, silence=1000.0)
        assert (list(listed.tools), listed.era) == (["look"], None)
        assert server.methods == ["server/discover", "initialize", "notifications/initialized", "tools/list"]


class Watched:
    """An upstream that keeps what it was sent."""

    def __init__(self, upstream: HttpUpstream) -> None:
        self._upstream = upstream
        self.sent: list[UpstreamRequest] = []

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        self.sent.append(request)
        return await self._upstream.send(request)

    async def aclose(self) -> None:
        await self._upstream.aclose()


@pytest.mark.parametrize("modern", [True, False])
async def test_every_request_is_in_the_name_of_the_tenants_own_asker(modern: bool) -> None:
    async with ToolServer(ONE, modern=modern, session="s-1") as server:
        watched = Watched(server.upstream)
        await fetch_tools(watched, TENANT, 7.0)
    assert {request.owner for request in watched.sent} == {owner_of(TENANT)}
    assert {request.timeout for request in watched.sent} == {7.0}
    assert not any(request.stream for request in watched.sent)
    # Which era a process is started for, and whose session an answer belongs to, goes by these.
    assert [request.modern for request in watched.sent] == ([True, True] if modern else [True, *[False] * 4])
    assert [request.session for request in watched.sent] == ([None] * 2 if modern else [None, None, *["s-1"] * 3])


async def test_an_era_that_is_known_needs_no_probe() -> None:
    async with ToolServer(ONE) as server:
        assert list((await fetched(server, Era.MODERN)).tools) == ["look"]
        assert server.methods == ["tools/list"]
    async with ToolServer(ONE, modern=False) as server:
        listed = await fetched(server, Era.HANDSHAKE)
        assert (list(listed.tools), listed.era) == (["look"], Era.HANDSHAKE)
        assert server.methods == ["initialize", "notifications/initialized", "tools/list"]


async def test_an_era_that_is_no_longer_right_is_found_out_anew() -> None:
    def handshake_only(seen: Seen) -> Reply:
        modern = seen.headers.get("mcp-protocol-version") == MODERN
        return error_of(seen, -32600, b"400 Bad Request") if modern else None

    async with ToolServer(ONE, override=handshake_only) as server:
        assert (await fetched(server, Era.MODERN)).era is Era.HANDSHAKE
    async with ToolServer(ONE, override=only("initialize", lambda seen: error_of(seen, -32601))) as server:
        assert (await fetched(server, Era.HANDSHAKE)).era is Era.MODERN
        assert server.methods == ["initialize", "server/discover", "tools/list"]


@pytest.mark.parametrize(
    "welcome",
    [
        lambda seen: error_of(seen, -32602),
        lambda seen: status(b"400 Bad Request"),
        lambda seen: result_of(seen, capabilities={}),
        lambda seen: result_of(seen, protocolVersion="1999-01-01"),
        lambda seen: result_of(seen, protocolVersion=7),
    ],
)
async def test_a_server_that_speaks_neither_era_is_invalid(welcome: Callable[[Seen], Reply]) -> None:
    async with ToolServer(ONE, modern=False, override=only("initialize", welcome)) as server:
        error = await refusal(server)
        assert error.code is ErrorCode.UPSTREAM_INVALID
        assert "neither server/discover nor initialize" in error.debug


@pytest.mark.parametrize("modern", [True, False])
async def test_a_server_without_tools_has_none(modern: bool) -> None:
    def no_tools(seen: Seen) -> bytes:
        return error_of(seen, -32601, b"404 Not Found")

    async with ToolServer(modern=modern, override=only("tools/list", no_tools)) as server:
        assert (await fetched(server)).tools == {}


@pytest.mark.parametrize("session", ["s-1", "s" * 1024])
async def test_a_session_is_ended_whatever_becomes_of_the_list(session: str) -> None:
    bad = only("tools/list", lambda seen: result_of(seen, tools="none"))
    async with ToolServer(modern=False, session=session, override=bad) as server:
        assert (await refusal(server)).code is ErrorCode.UPSTREAM_INVALID
        assert server.methods[-1] == "DELETE"


@pytest.mark.parametrize("silent", [True, False])
async def test_a_session_that_will_not_be_ended_does_not_keep_the_list_back(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    monkeypatch.setattr(catalogue_fetch, "FAREWELL_SECONDS", 0.05)
    farewell = asyncio.Event() if silent else status(b"405 Method Not Allowed")

    def stubborn(seen: Seen) -> Reply:
        return None if seen.body else farewell

    async with ToolServer(ONE, modern=False, session="s-1", override=stubborn) as server:
        assert list((await fetched(server)).tools) == ["look"]
        assert server.methods[-1] == "DELETE"


def listing(**result: Any) -> Callable[[Seen], Reply]:
    return lambda seen: result_of(seen, **result)


@pytest.mark.parametrize(
    ("answer", "debug"),
    [
        (listing(), "no list of tools"),
        (listing(tools={"a": 1}), "no list of tools"),
        (listing(tools=[tool("a"), tool("b"), tool("a")]), "two tools are called 'a'"),
        (listing(tools=[], nextCursor=5), "nextCursor"),
        (listing(tools=[], nextCursor=["x"]), "nextCursor"),
        (lambda seen: result_of(seen, tools=[], nextCursor="x" * 4097 + str(seen.message["id"])), "nextCursor"),
        (listing(tools=[], nextCursor="again"), "the last one again"),
        (listing(resultType="input_required", requestState="x"), "not complete"),
        (lambda seen: error_of(seen, -32603), "error -32603"),
        (lambda seen: status(b"418 Teapot"), "no JSON-RPC"),
        (lambda seen: status(b"200 OK", b"<html>", b"text/html"), "text/html"),
        (lambda seen: status(b"200 OK", b"{", b"application/json"), "unreadable JSON"),
        (lambda seen: http_answer(response({"tools": []}, 99)), "no response to tools/list"),
        (lambda seen: http_answer(response({"tools": []}, str(seen.message["id"]))), "no response to tools/list"),
        (lambda seen: http_answer(b'{"jsonrpc":"2.0","method":"ping","id":1}'), "no response to tools/list"),
    ],
)
async def test_a_list_that_breaks_a_rule_is_invalid(answer: Callable[[Seen], Reply], debug: str) -> None:
    async with ToolServer(override=only("tools/list", answer)) as server:
        error = await refusal(server)
        assert error.code is ErrorCode.UPSTREAM_INVALID
        assert debug in error.debug


async def test_a_name_that_comes_again_on_a_later_page_is_invalid() -> None:
    async with ToolServer(((tool("a"),), (tool("b"), tool("a")))) as server:
        assert "two tools" in (await refusal(server)).debug


async def test_a_stream_that_ends_before_the_response_is_broken() -> None:
    def cut(seen: Seen) -> bytes:
        return http_answer(b": nothing\n\n", content_type=b"text/event-stream")

    async with ToolServer(override=only("tools/list", cut)) as server:
        assert (await refusal(server)).code is ErrorCode.UPSTREAM_BROKEN


def endless(seen: Seen) -> bytes:
    number = int(seen.message["params"].get("cursor", "0"))
    return result_of(seen, tools=[tool(f"t{number}")], nextCursor=str(number + 1))


@pytest.mark.parametrize(
    ("module", "cap", "value", "debug"),
    [
        (catalogue_fetch, "MAX_PAGES", 5, "more than 5 pages"),
        (catalogue_fetch, "MAX_BYTES", 900, "more than 900 bytes"),
        (tool_list, "MAX_TOOLS", 4, "more than 4 tools"),
    ],
)
async def test_a_list_without_end_ends_at_the_cap(
    monkeypatch: pytest.MonkeyPatch, module: Any, cap: str, value: int, debug: str
) -> None:
    monkeypatch.setattr(module, cap, value)
    async with ToolServer(override=only("tools/list", endless)) as server:
        error = await refusal(server)
        assert error.code is ErrorCode.UPSTREAM_INVALID
        assert debug in error.debug
        assert len(server.seen) <= 12


async def test_the_whole_asking_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_fetch, "FETCH_SECONDS", 0.2)
    monkeypatch.setattr(catalogue_fetch, "MAX_PAGES", 10**9)
    async with ToolServer(override=only("tools/list", endless)) as server:
        error = await refusal(server)
        assert error.code is ErrorCode.UPSTREAM_TIMEOUT
        assert "no complete list" in error.debug


async def test_a_server_that_falls_silent_is_given_up() -> None:
    never = asyncio.Event()
    async with ToolServer(override=only("tools/list", lambda seen: never)) as server:
        assert (await refusal(server, silence=0.05)).code is ErrorCode.UPSTREAM_TIMEOUT


async def test_a_session_id_that_is_no_header_value_is_invalid() -> None:
    async with ToolServer(ONE, modern=False, session="s" * 1025) as server:
        assert (await refusal(server)).code is ErrorCode.UPSTREAM_INVALID
        assert server.methods == ["server/discover", "initialize"]


async def test_a_large_list_is_read_whole() -> None:
    many = tuple(tool(f"t{number}", description="x" * 100) for number in range(2000))
    async with ToolServer((many,)) as server:
        listed = await fetched(server)
        assert len(listed.tools) == 2000
        assert len(json.dumps(many)) > catalogue_fetch.INLINE_BYTES


def test_no_registered_agent_is_the_one_that_asks() -> None:
    from pydantic import TypeAdapter, ValidationError

    owner = owner_of(TENANT)
    assert (owner.tenant, owner.issuer, owner.user) == (TENANT, "", None)
    with pytest.raises(ValidationError):
        TypeAdapter(AgentKey).validate_python(f"{TENANT}/{OWNER}")
