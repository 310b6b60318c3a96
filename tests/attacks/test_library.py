"""A server that guards itself (library mode): ways around its gates, and what its own code might get wrong.

Real FastMCP servers and plain ASGI applications inside `twogate.asgi`, served by plain uvicorn. A refusal proves that
the application saw nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastmcp import Client, Context, FastMCP
from fastmcp.server.dependencies import get_http_request
from mcp.server.mcpserver import MCPServer

from harness.issuer import TestIssuer
from harness.stack import Stack, free_port, guarded, running, settings_for, tool_call
from harness.upstream import RecordingUpstream
from twogate.adapters.upstream.stamp import SCOPE_KEY, Stamp, issue_stamp, stamp_in
from twogate.asgi import Identity, NotPermittedError, Twogate, current, identity, require_auth
from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import Kind, Message
from twogate.fastmcp import TwogateMiddleware
from twogate.flows.gateway.catalogue_fetch import fetch_tools
from twogate.flows.gateway.tool_list import Era

App = Callable[[Any, Any, Any], Awaitable[None]]
VERSION = {"mcp_protocol_version": "2025-11-25"}
MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


def write_settings(directory: Path, issuer: TestIssuer, **changes: Any) -> tuple[Path, str]:
    """A configuration whose server `files` guards itself."""
    port = free_port()
    settings = settings_for(directory, port, {"files": {"library": True}}, issuer)
    settings["tools"]["files.route"] = {"class": "read"}
    settings["scopes"] = {"reports": ["read", "search", "write"]}
    for task in settings["tasks"].values():
        task["tools"].append("files.route")
    settings.update(changes)
    path = directory / "twogate.yaml"
    path.write_text(json.dumps(settings))
    return path, settings["public_url"]


class Notes:
    """A FastMCP server that keeps what its tools learned of their callers."""

    def __init__(self) -> None:
        self.mcp = FastMCP("files", middleware=[TwogateMiddleware()])
        self.ran: list[str] = []
        self.callers: list[Identity] = []
        self.later: list[BaseException | Identity] = []
        self.over = asyncio.Event()
        self.held: Any = None
        self.may_go = asyncio.Event()
        self.background: set[asyncio.Task[None]] = set()
        self.mcp.tool(self.look)
        self.mcp.tool(self.find)
        self.mcp.tool(self.route)
        self.mcp.tool(self.change)
        self.mcp.tool(self.wipe)
        self.mcp.resource("notes://all/The%20List")(self.read)
        self.mcp.resource("notes://one/{name}")(self.read_one)
        self.mcp.prompt(self.summarize)

    async def look(self, how: str = "") -> str:
        """Who asks."""
        self.ran.append("look")
        self.callers.append(current())
        assert identity(get_http_request()) == current()
        if how == "later":
            task = asyncio.create_task(self._ask_later())
            self.background.add(task)
        if how == "hold":
            self.held = get_http_request().scope
            await self.may_go.wait()
        return current().agent

    async def _ask_later(self) -> None:
        await self.over.wait()
        try:
            self.later.append(current())
        except NotPermittedError as error:
            self.later.append(error)

    @require_auth(scope="admin", role="executor")
    def find(self, text: str = "") -> str:
        """What nobody here has the scope for."""
        self.ran.append("find")
        return text

    async def route(self, ctx: Context) -> str:
        """Calls another tool under its own request."""
        self.ran.append("route")
        return str(await ctx.fastmcp.call_tool("wipe", {}))

    @require_auth(role=["admin", "operator"])
    async def change(self) -> str:
        self.ran.append("change")
        return "changed"

    def read(self) -> str:
        self.ran.append("read")
        return current().target

    def read_one(self, name: str) -> str:
        self.ran.append("read_one")
        return f"{name} {current().target}"

    def summarize(self, text: str) -> str:
        self.ran.append("summarize")
        return f"{text} {current().method}"

    def wipe(self) -> str:
        self.ran.append("wipe")
        return "wiped"


@pytest.fixture
async def notes() -> Notes:
    return Notes()


@pytest.fixture
async def stack(tmp_path: Path, issuer: TestIssuer, notes: Notes) -> AsyncIterator[Stack]:
    config, url = write_settings(tmp_path, issuer)
    async with guarded(Twogate(notes.mcp.http_app(stateless_http=True), config=config, server="files"), url) as made:
        yield made


def said(response: httpx2.Response) -> dict[str, Any]:
    """The answer's message, whether it came as JSON or as an event."""
    text = response.text.split("data: ")[-1]
    message: dict[str, Any] = json.loads(text)
    return message


async def call(stack: Stack, token: str, tool: str, task: str = "report", **arguments: Any) -> dict[str, Any]:
    response = await stack.post(token, tool_call(tool, arguments), twogate_task=task, **VERSION)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = said(response)["result"]
    return result


# --- What a call that came through both gates gives the server's code.


async def test_the_tools_code_knows_who_calls(stack: Stack, issuer: TestIssuer, notes: Notes) -> None:
    result = await call(stack, issuer.token(stack.resource(), scope="reports"), "look")
    assert result["content"][0]["text"] == "robot"
    (caller,) = notes.callers
    assert (caller.tenant, caller.agent, caller.role, caller.user) == ("acme", "robot", "executor", None)
    assert caller.task == "report"
    assert caller.scopes == {"reports"}
    assert (caller.server, caller.method, caller.target) == ("files", "tools/call", "files.look")
    assert caller.session is not None


async def test_the_modern_protocol_has_stamps_too(stack: Stack, issuer: TestIssuer, notes: Notes) -> None:
    body = tool_call("look")
    body["params"]["_meta"] = MODERN
    headers = {"mcp_protocol_version": "2026-07-28", "mcp_method": "tools/call", "mcp_name": "look"}
    response = await stack.post(issuer.token(stack.resource(), scope="reports"), body, **headers)
    assert response.status_code == 200, response.text
    assert notes.ran == ["look"]


@pytest.mark.parametrize(
    ("method", "params", "ran"),
    [
        ("resources/read", {"uri": "notes://all/The%20List"}, "read"),
        ("resources/read", {"uri": "notes://one/milk"}, "read_one"),
        ("prompts/get", {"name": "summarize", "arguments": {"text": "x"}}, "summarize"),
        ("tools/list", {}, None),
        ("resources/list", {}, None),
        ("resources/templates/list", {}, None),
        ("prompts/list", {}, None),
        ("ping", {}, None),
        ("logging/setLevel", {"level": "info"}, None),
    ],
)
async def test_every_method_that_the_gates_let_in_carries_its_stamp(
    tmp_path: Path, issuer: TestIssuer, notes: Notes, method: str, params: dict[str, Any], ran: str | None
) -> None:
    named = ["files.resource:notes://all/The%20List", "files.resource:notes://one/*", "files.prompt:summarize"]
    entries = {"files.look": {"class": "read"}} | {name: {"class": "read"} for name in named}
    tasks = {"report": {"tools": ["read"]}, "edit": {"tools": ["read"]}}
    config, url = write_settings(tmp_path, issuer, tools=entries, tasks=tasks, scopes={})
    app = Twogate(notes.mcp.http_app(stateless_http=True), config=config, server="files")
    async with guarded(app, url) as stack:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        response = await stack.post(issuer.token(stack.resource()), body, **VERSION)
        assert response.status_code == 200, response.text
        assert "result" in said(response), response.text
    assert notes.ran == ([] if ran is None else [ran])


@pytest.mark.parametrize("era", [None, Era.HANDSHAKE])
async def test_twogate_itself_may_ask_for_the_tools_and_run_none(stack: Stack, notes: Notes, era: Era | None) -> None:
    upstream = stack.app.current.upstreams["files"]
    listed = await fetch_tools(upstream, "acme", 5, era)
    assert set(listed.tools) == {"look", "find", "route", "change", "wipe"}
    asked = Message(Kind.REQUEST, 1, "tools/list", {})
    with pytest.raises(NotPermittedError):
        identity({SCOPE_KEY: issue_stamp(None, asked)})
    assert notes.ran == []


async def test_headers_that_differ_from_the_body_are_refused(stack: Stack, issuer: TestIssuer, notes: Notes) -> None:
    response = await stack.post(
        issuer.token(stack.resource(), scope="reports"), tool_call("look"), mcp_name="wipe", **VERSION
    )
    assert (response.status_code, stack.reasons()) == (400, ["header_mismatch"])
    assert notes.ran == []


async def test_require_auth_narrows_what_the_gates_allow(stack: Stack, issuer: TestIssuer, notes: Notes) -> None:
    token = issuer.token(stack.resource(), scope="reports")
    refused = await call(stack, token, "find", "edit", text="x")
    assert refused["isError"] is True
    assert "not permitted" in refused["content"][0]["text"]
    assert "scope" not in refused["content"][0]["text"]
    assert notes.ran == []


async def test_require_auth_never_widens(stack: Stack, issuer: TestIssuer, notes: Notes) -> None:
    # `wipe` asks for nothing itself, and the gates refuse it.
    response = await stack.call(issuer.token(stack.resource(), scope="reports"), "wipe")
    assert (response.status_code, notes.ran) == (403, [])
    assert stack.reasons() == ["role_not_permitted"]


# --- Ways around.


async def test_a_client_in_memory_is_refused(notes: Notes) -> None:
    with pytest.raises(Exception, match=r"[Nn]ot permitted|initialize"):
        async with Client(notes.mcp) as client:
            await client.call_tool("look")
    with pytest.raises(Exception, match=r"[Nn]ot permitted"):
        await notes.mcp.call_tool("look", {})
    assert notes.ran == []


async def test_the_same_server_mounted_elsewhere_is_refused(stack: Stack, notes: Notes) -> None:
    app = notes.mcp.http_app(stateless_http=True, json_response=True)
    transport = httpx2.ASGITransport(app=app)
    async with app.lifespan(app), httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
        for method, params in (("tools/call", {"name": "look", "arguments": {}}), ("tools/list", {}), ("ping", {})):
            response = await http.post(
                "/mcp",
                json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params},
                headers={
                    "accept": "application/json, text/event-stream",
                    "mcp-protocol-version": "2025-11-25",
                    "twogate-identity": "eyJ",
                    "x-twogate-stamp": "1",
                    SCOPE_KEY: "1",
                },
            )
            assert said(response)["error"]["data"] == {"reason": "not_permitted"}
    assert notes.ran == []


async def test_stdio_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "server.py"
    program.write_text(
        "from fastmcp import FastMCP\n"
        "from twogate.fastmcp import TwogateMiddleware\n"
        "mcp = FastMCP('files', middleware=[TwogateMiddleware()])\n"
        "@mcp.tool\n"
        "def look() -> str:\n"
        "    return 'ran'\n"
        "mcp.run(show_banner=False)\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(program), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    start = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    lines = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": start},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {**tool_call("look"), "id": 2},
    ]
    sent = "".join(json.dumps(line) + "\n" for line in lines).encode()
    out, _ = await asyncio.wait_for(process.communicate(sent), 60)
    answers = [json.loads(line) for line in out.splitlines()]
    assert answers
    assert all("error" in answer for answer in answers)
    assert b"ran" not in out


async def test_another_tool_does_not_run_under_a_calls_stamp(stack: Stack, issuer: TestIssuer, notes: Notes) -> None:
    result = await call(stack, issuer.token(stack.resource(), scope="reports"), "route")
    assert result["isError"] is True
    assert notes.ran == ["route"]


async def test_a_stamp_is_worth_nothing_after_its_request(stack: Stack, issuer: TestIssuer, notes: Notes) -> None:
    await call(stack, issuer.token(stack.resource(), scope="reports"), "look", how="later")
    notes.over.set()
    await asyncio.wait(notes.background)
    (error,) = notes.later
    assert isinstance(error, NotPermittedError)
    assert "over" in error.reason


async def test_the_stamp_of_a_running_request_serves_no_other(stack: Stack, issuer: TestIssuer, notes: Notes) -> None:
    running_call = asyncio.create_task(call(stack, issuer.token(stack.resource(), scope="reports"), "look", how="hold"))
    try:
        while notes.held is None:
            await asyncio.sleep(0)
        stolen = stamp_in(notes.held)
        assert isinstance(stolen, Stamp)
        assert stolen.live
        # The server's own code carries it over to a request that nobody decided on.
        inner = notes.mcp.http_app(stateless_http=True, json_response=True)

        async def carrying(scope: Any, receive: Any, send: Any) -> None:
            await inner({**scope, SCOPE_KEY: stolen}, receive, send)

        transport = httpx2.ASGITransport(app=carrying)
        async with inner.lifespan(inner), httpx2.AsyncClient(transport=transport, base_url="http://localhost") as http:
            for body in (tool_call("wipe"), tool_call("look"), tool_call("look", {"how": "later"})):
                response = await http.post(
                    "/mcp",
                    json=body,
                    headers={"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-11-25"},
                )
                assert said(response)["error"]["data"] == {"reason": "not_permitted"}
    finally:
        notes.may_go.set()
    assert (await running_call)["isError"] is False
    assert notes.ran == ["look"]
    # What was stolen ended with its request.
    assert not stolen.live
    with pytest.raises(NotPermittedError):
        identity({SCOPE_KEY: stolen})


def keeps_sessions(kind: str, look: Callable[..., Awaitable[str]]) -> App:
    """A server with one session for many requests, whose code runs in a task that the first of them started."""
    if kind == "sdk":
        plain = MCPServer("files")
        plain.add_tool(look)
        return plain.streamable_http_app()
    fast = FastMCP("files", middleware=[TwogateMiddleware()])
    fast.tool(look)
    return fast.http_app()


@pytest.mark.parametrize("kind", ["sdk", "fastmcp"])
async def test_requests_of_one_mcp_session_are_told_apart_also_at_once(
    tmp_path: Path, issuer: TestIssuer, kind: str
) -> None:
    held, may_go = asyncio.Event(), asyncio.Event()
    seen: list[tuple[str, frozenset[str], frozenset[str]]] = []

    async def look(how: str = "") -> str:
        before = current().scopes
        if how == "hold":
            held.set()
            await may_go.wait()
        seen.append((how, before, current().scopes))
        return "ok"

    config, url = write_settings(tmp_path, issuer)
    async with guarded(Twogate(keeps_sessions(kind, look), config=config, server="files"), url) as stack:
        wide = issuer.token(stack.resource(), scope="reports admin")
        narrow = issuer.token(stack.resource(), scope="reports")
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
        opened = await stack.post(wide, {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello})
        headers = {**VERSION, "mcp_session_id": opened.headers["mcp-session-id"]}
        await stack.post(wide, {"jsonrpc": "2.0", "method": "notifications/initialized"}, **headers)
        first = asyncio.create_task(stack.post(wide, {**tool_call("look", {"how": "hold"}), "id": 1}, **headers))
        try:
            await asyncio.wait_for(held.wait(), 10)
            second = await stack.post(narrow, {**tool_call("look", {"how": "narrow"}), "id": 2}, **headers)
        finally:
            may_go.set()
        assert [said(answer)["id"] for answer in (await first, second)] == [1, 2]
    both, less = frozenset({"reports", "admin"}), frozenset({"reports"})
    assert seen == [("narrow", less, less), ("hold", both, both)]


def test_a_stamp_cannot_be_made_or_copied() -> None:
    message = Message(Kind.REQUEST, 1, "tools/call", {"name": "look"})
    someone = Identity(tenant="acme", agent="admin", role="admin", server="files", method="tools/call")
    made = Stamp(someone, message)
    for forged in (made, "stamp", {"identity": someone}, type("Stamp", (Stamp,), {})(someone, message)):
        with pytest.raises(NotPermittedError):
            identity({SCOPE_KEY: forged})
    assert not made.redeem("tools/call", {"name": "look"})


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("tools/call", {"name": "look", "arguments": {"n": True}}),
        ("tools/call", {"name": "look", "arguments": {"n": 1.0}}),
        ("tools/call", {"name": "look", "arguments": {"n": 1, "m": None}}),
        ("tools/call", {"name": "look", "arguments": {}}),
        ("tools/call", {"name": "LOOK", "arguments": {"n": 1}}),
        ("prompts/get", {"name": "look", "arguments": {"n": 1}}),
    ],
)
def test_a_stamp_covers_one_message_to_the_letter(method: str, params: dict[str, Any]) -> None:
    stamp = Stamp(None, Message(Kind.REQUEST, 1, "tools/call", {"name": "look", "arguments": {"n": 1}, "_meta": {}}))
    assert stamp.covers("tools/call", {"name": "look", "arguments": {"n": 1}})
    assert not stamp.covers(method, params)


async def test_a_guarded_function_outside_of_calls_is_refused(notes: Notes) -> None:
    with pytest.raises(NotPermittedError):
        notes.find("x")
    with pytest.raises(NotPermittedError):
        await notes.change()
    with pytest.raises(NotPermittedError):
        current()
    assert notes.ran == []


# --- Plain applications: what of them can be reached, and what they may answer.


class Inner:
    """An ASGI application that keeps what it saw, and answers as it is told."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.answers: Callable[[Any], Awaitable[None]] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError("no lifespan here")
        self.seen.append(scope)
        if self.answers is not None:
            await self.answers(send)
            return
        message = json.loads((await receive())["body"] or b"{}")
        answer = {"jsonrpc": "2.0", "id": message.get("id"), "result": {"content": []}}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


@pytest.fixture
async def inner() -> Inner:
    return Inner()


@pytest.fixture
async def plain(tmp_path: Path, issuer: TestIssuer, inner: Inner) -> AsyncIterator[Stack]:
    config, url = write_settings(tmp_path, issuer)
    public = ("/about", "/static/")
    async with guarded(Twogate(inner, config=config, server="files", public_paths=public), url) as made:
        yield made


async def raw(stack: Stack, request: bytes) -> tuple[int, bytes]:
    """The status and the rest of what uvicorn answers to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(stack.url.rpartition(":")[2]))
    writer.write(request)
    await writer.drain()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return int(answer.split(b" ")[1]), answer


async def test_nothing_else_of_the_application_can_be_reached(plain: Stack, issuer: TestIssuer, inner: Inner) -> None:
    token = issuer.token(plain.resource(), scope="reports")
    for path in (
        "/",
        "/mcp",
        "/mcp/",
        "/admin",
        "/docs",
        "/openapi.json",
        "/about/x",
        "/About",
        "/static",
        "/messages/",
    ):
        for method in ("GET", "POST"):
            response = await plain.http.request(
                method, plain.url + path, headers={"authorization": f"Bearer {token}"}, follow_redirects=False
            )
            assert response.status_code in (404, 405), path
    assert inner.seen == []


async def test_public_paths_are_open_and_carry_no_stamp(plain: Stack, inner: Inner) -> None:
    for path in ("/about", "/static/a/b.css"):
        assert (await plain.http.get(plain.url + path)).status_code == 200
    assert [scope["path"] for scope in inner.seen] == ["/about", "/static/a/b.css"]
    for scope in inner.seen:
        with pytest.raises(NotPermittedError):
            identity(scope)


@pytest.mark.parametrize(
    "public", ["/mcp", "/mcp/", "/MCP", "/", "/mcp/notes", "relative", "/a/../mcp", "/a//b", "/%6dcp", "/a?b", ""]
)
def test_a_public_path_cannot_let_the_endpoint_out(public: str) -> None:
    with pytest.raises(ValueError, match="path"):
        Twogate(Inner(), server="files", public_paths=[public])


@pytest.mark.parametrize("public", ["/sessions", "/healthz", "/.well-known/", "/mcp-not", "/other"])
async def test_a_public_path_cannot_take_the_place_of_twogates_own(
    tmp_path: Path, issuer: TestIssuer, public: str
) -> None:
    config, _ = write_settings(tmp_path, issuer)
    app = Twogate(Inner(), config=config, server="files", public_paths=[public])
    if public in ("/mcp-not", "/other"):
        async with app.running():
            assert app.application is not None
        return
    with pytest.raises(Exception, match="path of Twogate's own"):
        async with app.running():
            pass


@pytest.mark.parametrize(
    "target",
    [
        b"/mcp/../mcp",
        b"/about/../mcp",
        b"/static/../mcp",
        b"/static/%2e%2e/mcp",
        b"/static/..%2fmcp",
        b"/static/%2E%2E%2Fmcp",
        b"//mcp",
        b"/static//mcp",
        b"/static/%5cmcp",
        b"/static/%00",
        b"/mcp%2ffiles",
        b"/mcp/files%2f..",
        b"http://localhost/about/../mcp",
        b"/%61bout/..",
    ],
)
async def test_a_path_that_others_could_read_differently_is_refused(plain: Stack, inner: Inner, target: bytes) -> None:
    host = plain.url.removeprefix("http://").encode()
    status, answer = await raw(
        plain, b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n"
    )
    assert status in (400, 404), answer
    assert inner.seen == []


HEADERS: list[tuple[list[bytes], int]] = [
    ([b"Host: evil.example"], 403),
    ([b"Host: 127.0.0.1"], 403),
    ([], 400),
    ([b"HOST", b"Host: evil.example"], 400),
    ([b"HOST", b"Authorization: Bearer x", b"Authorization: Bearer y"], 400),
    ([b"HOST", b"Mcp-Method: tools/call", b"Mcp-Method: tools/list"], 400),
    ([b"HOST", b"Mcp-Session-Id: a", b"mcp-session-id: b"], 400),
    ([b"HOST", b"Twogate-Task: report", b"Twogate-Task: edit"], 400),
    ([b"HOST", b"Twogate_Task: edit"], 400),
    ([b"HOST", b"X-Long: " + b"a" * 20_000], 431),
    ([b"HOST", *(b"X-%d: a" % n for n in range(120))], 431),
    ([b"HOST", b"Upgrade: h2c"], 400),
]


@pytest.mark.parametrize(("headers", "expected"), HEADERS, ids=[str(n) for n in range(len(HEADERS))])
async def test_what_the_edge_refuses_is_refused_under_plain_uvicorn(
    plain: Stack, issuer: TestIssuer, inner: Inner, headers: list[bytes], expected: int
) -> None:
    host = b"Host: " + plain.url.removeprefix("http://").encode()
    token = b"Authorization: Bearer " + issuer.token(plain.resource(), scope="reports").encode()
    lines = [host if line == b"HOST" else line for line in headers]
    if not any(line.startswith(b"Authorization") for line in lines):
        lines.append(token)
    body = json.dumps(tool_call("look")).encode()
    lines += [b"Content-Type: application/json", b"Accept: application/json, text/event-stream"]
    lines += [b"Connection: close", b"Content-Length: %d" % len(body)]
    status, answer = await raw(plain, b"POST /mcp/files HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body)
    assert status == expected, answer
    assert inner.seen == []


async def test_a_body_over_its_cap_is_refused_declared_or_not(tmp_path: Path, issuer: TestIssuer, inner: Inner) -> None:
    config, url = write_settings(tmp_path, issuer, limits={"body": "64KiB"})
    async with guarded(Twogate(inner, config=config, server="files"), url) as plain:
        token = issuer.token(plain.resource(), scope="reports")
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json", "accept": "*/*"}

        async def pieces(count: int) -> AsyncIterator[bytes]:
            for _ in range(count):
                yield b" " * 1000

        for content in (b" " * 70_000, b" " * 200_000, pieces(70), pieces(200)):
            response = await plain.http.post(plain.resource(), content=content, headers=headers)
            assert response.status_code == 413
    assert inner.seen == []


async def test_what_a_client_sends_beside_its_message_never_arrives(
    plain: Stack, issuer: TestIssuer, inner: Inner
) -> None:
    token = issuer.token(plain.resource(), scope="reports")
    smuggled = {"twogate_identity": "eyJ", "x_twogate_stamp": "1", "cookie": "a=b", "forwarded": "for=1.2.3.4"}
    response = await plain.call(token, "look", **smuggled)
    assert response.status_code == 200
    (scope,) = inner.seen
    assert {name for name, _ in scope["headers"]} == {
        b"host", b"accept-encoding", b"content-type", b"accept", b"mcp-protocol-version", b"content-length",
    }  # fmt: skip
    assert token not in str(scope)
    assert (scope["path"], scope["query_string"]) == ("/mcp", b"")
    assert identity_after_end(scope) is None


def identity_after_end(scope: Any) -> Identity | None:
    try:
        return identity(scope)
    except NotPermittedError:
        return None


JSON = [(b"content-type", b"application/json")]
START = {"type": "http.response.start", "status": 200, "headers": JSON}


def sends(*events: Any, error: BaseException | None = None) -> Callable[[Any], Awaitable[None]]:
    async def answer(send: Any) -> None:
        for event in events:
            await send(event)
        if error is not None:
            raise error

    return answer


def head(**changes: Any) -> dict[str, Any]:
    return {**START, **changes}


BODY = {"type": "http.response.body", "body": b"{}"}
SAYS = head(headers=[*JSON, (b"content-length", b"3")])
STRANGE: dict[str, tuple[Callable[[Any], Awaitable[None]], str]] = {
    "no answer": (sends(), "upstream_invalid"),
    "an exception": (sends(error=ValueError("secret of the server")), "upstream_broken"),
    "an exception after the head": (sends(START, error=ValueError("secret of the server")), "upstream_broken"),
    "a head alone": (sends(START), "upstream_broken"),
    "a body first": (sends(BODY), "upstream_invalid"),
    "two heads": (sends(START, START, BODY), "upstream_invalid"),
    "an unknown event": (sends({"type": "http.response.pathsend", "path": "/etc/passwd"}), "upstream_invalid"),
    "an event without type": (sends({}), "upstream_invalid"),
    "a status that is none": (sends(head(status=999), BODY), "upstream_invalid"),
    "a status that is text": (sends(head(status="200"), BODY), "upstream_invalid"),
    "a redirect": (sends(head(status=302, headers=[(b"location", b"/mcp")]), BODY), "upstream_invalid"),
    "a header with a line break": (sends(head(headers=[(b"a", b"b\r\nc: d")]), BODY), "upstream_invalid"),
    "a header of text": (sends(head(headers=[("a", "b")]), BODY), "upstream_invalid"),
    "a header of three": (sends(head(headers=[(b"a", b"b", b"c")]), BODY), "upstream_invalid"),
    "headers that are a number": (sends(head(headers=7), BODY), "upstream_invalid"),
    "too many headers": (sends(head(headers=[(b"a", b"b")] * 200), BODY), "upstream_invalid"),
    "a media type twice": (sends(head(headers=JSON * 2), BODY), "upstream_invalid"),
    "a body of text": (sends(START, {"type": "http.response.body", "body": "{}"}), "upstream_invalid"),
    "a compressed body": (sends(head(headers=[(b"content-encoding", b"gzip")]), BODY), "upstream_invalid"),
    "more than it said": (sends(SAYS, {**BODY, "body": b"1234"}), "upstream_invalid"),
    "less than it said": (sends(SAYS, BODY), "upstream_invalid"),
    "no JSON": (sends(START, {"type": "http.response.body", "body": b"<html>"}), "upstream_invalid"),
}  # fmt: skip


async def test_strange_answers_are_failures_of_the_server_and_show_nothing(
    plain: Stack, issuer: TestIssuer, inner: Inner
) -> None:
    token = issuer.token(plain.resource(), scope="reports")
    for name, (answers, reason) in STRANGE.items():
        inner.answers = answers
        response = await plain.call(token, "look")
        assert (name, response.status_code) == (name, 502)
        assert (name, response.json()["error"]["data"]["reason"]) == (name, reason)
        assert "secret" not in response.text
        assert "Traceback" not in response.text
    outcomes = [event for event in plain.events() if event["kind"] == "call.outcome"]
    assert [event["reason"] for event in outcomes] == [reason for _, reason in STRANGE.values()]


async def test_without_an_audit_trail_nothing_reaches_the_application(
    plain: Stack, issuer: TestIssuer, inner: Inner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise GateError(ErrorCode.AUDIT_UNAVAILABLE, "told to")

    monkeypatch.setattr(plain.state.audit, "append", broken)
    response = await plain.call(issuer.token(plain.resource(), scope="reports"), "look")
    assert (response.status_code, response.json()["error"]["data"]["reason"]) == (503, "unavailable")
    assert inner.seen == []


# --- Before, without and beside the lifespan.


async def test_without_its_lifespan_it_refuses_everything(tmp_path: Path, issuer: TestIssuer, inner: Inner) -> None:
    config, url = write_settings(tmp_path, issuer)
    app = Twogate(inner, config=config, server="files", public_paths=["/about"])
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=url) as http:
        for path in ("/mcp/files", "/about", "/healthz"):
            assert (await http.get(path)).status_code == 503
        async with app.running():
            assert (await http.get("/about")).status_code == 200
        assert (await http.get("/about")).status_code == 503
    assert len(inner.seen) == 1


async def test_web_sockets_are_closed(inner: Inner) -> None:
    sent: list[Any] = []

    async def send(event: Any) -> None:
        sent.append(event)

    await Twogate(inner, server="files")({"type": "websocket"}, None, send)  # type: ignore[arg-type]  # never called
    assert sent == [{"type": "websocket.close", "code": 1008}]
    assert inner.seen == []


async def test_two_processes_cannot_share_a_state(tmp_path: Path, issuer: TestIssuer, inner: Inner) -> None:
    config, _ = write_settings(tmp_path, issuer)
    async with Twogate(inner, config=config, server="files").running():
        with pytest.raises(Exception, match="serves over"):
            async with Twogate(inner, config=config, server="files").running():
                pass


@pytest.mark.parametrize("servers", [{"notes": {"library": True}}, {"files": {"url": "http://127.0.0.1:1/mcp"}}])
async def test_the_configuration_must_know_the_server_as_one_that_guards_itself(
    tmp_path: Path, issuer: TestIssuer, servers: dict[str, Any]
) -> None:
    settings = settings_for(tmp_path, free_port(), servers, issuer)
    (tmp_path / "twogate.yaml").write_text(json.dumps(settings))
    with pytest.raises(Exception, match="servers"):
        async with Twogate(Inner(), config=tmp_path / "twogate.yaml", server="files").running():
            pass


async def test_a_server_that_does_not_start_is_not_served(tmp_path: Path, issuer: TestIssuer) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        del scope
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    config, _ = write_settings(tmp_path, issuer)
    app = Twogate(failing, config=config, server="files")
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(event: Any) -> None:
        sent.append(event)

    await app({"type": "lifespan"}, receive, send)
    assert [event["type"] for event in sent] == ["lifespan.startup.failed"]
    assert "no database" in sent[0]["message"]
    assert app.application is None


async def test_a_gateway_does_not_serve_it(
    tmp_path: Path, issuer: TestIssuer, other_upstream: RecordingUpstream
) -> None:
    servers = {"files": {"library": True}, "notes": {"url": other_upstream.url}}
    async with running(tmp_path, settings_for(tmp_path, free_port(), servers, issuer)) as stack:
        response = await stack.call(issuer.token(stack.resource(), scope="reports"), "look")
        assert (response.status_code, stack.reasons()) == (404, ["not_found"])
        assert (await stack.call(issuer.token(stack.resource("notes")), "look", "notes")).status_code == 200
