"""`/mcp/{server}` as ASGI: heads, bodies, refusals, CORS, and clients that go away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

import msgspec
import pytest
from uvicorn.protocols.http.flow_control import FlowControl

from gatelab import CountingRng
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.exchange import JSON_ANSWER, Exchange, Head, Refusal
from twogate.flows.gateway.pipeline import Pipeline
from twogate.web import gateway as module
from twogate.web.answer import AnswerCycle
from twogate.web.gateway import GatewayApp
from twogate.web.legacy import LegacyStreams

URL = "https://mcp.example.com"
Handle = Callable[[Head, Exchange], Awaitable[None]]


class ScriptedPipeline:
    """Does with each exchange what the test says, and keeps its head."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self.heads: list[Head] = []
        self.strangers: list[ErrorCode] = []
        self.taken: list[str] = []
        self.full = False

    async def handle(self, head: Head, exchange: Exchange) -> None:
        self.heads.append(head)
        await self._handle(head, exchange)

    def take(self, address: str) -> None:
        self.taken.append(address)
        if self.full:
            raise GateError(ErrorCode.RATE_LIMITED, data={"retry_after": 3})

    async def refuse_stranger(self, head: Head, error: GateError, exchange: Exchange) -> None:
        self.strangers.append(error.code)
        await exchange.refuse(Refusal(error))


class Client:
    """One ASGI request: gives the body in pieces, keeps the answer, and can go away."""

    def __init__(self, handle: Handle, **changes: Any) -> None:
        self.pipeline = ScriptedPipeline(handle)
        self.app = GatewayApp(
            cast("Pipeline", self.pipeline),
            LegacyStreams(CountingRng()),
            closing=(),
            public_url=changes.pop("public_url", URL),
            allowed_origins=frozenset({"https://app.example.com"}),
            scopes=frozenset({"reports", "admin"}),
        )
        self.pieces: list[bytes] = changes.pop("pieces", [b"{}"])
        headers: list[tuple[bytes, bytes]] = changes.pop("headers", [])
        self.scope: dict[str, Any] = {
            "type": "http", "method": "POST", "path": "/mcp/files", "query_string": b"", "headers": headers,
            "client": ("192.0.2.1", 50000), **changes,
        }  # fmt: skip
        self.sent: list[MutableMapping[str, Any]] = []
        self.gone = asyncio.Event()
        self.done = asyncio.Event()
        self.receiving = 0
        self.body_held: asyncio.Event | None = None

    async def run(self) -> Client:
        await self.app(self.scope, self.receive, self.send)
        return self

    async def receive(self) -> MutableMapping[str, Any]:
        self.receiving += 1
        assert self.receiving == 1, "two wait in receive at once"
        try:
            if self.pieces:
                if self.body_held is not None:
                    await self.body_held.wait()
                piece = self.pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}
            # As uvicorn does: a finished answer ends the wait too.
            waits = [asyncio.create_task(event.wait()) for event in (self.gone, self.done)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            return {"type": "http.disconnect"}
        finally:
            self.receiving -= 1

    async def send(self, event: MutableMapping[str, Any]) -> None:
        assert not self.done.is_set(), "sent after the end"
        self.sent.append(event)
        if event["type"] == "http.response.body" and not event["more_body"]:
            self.done.set()

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    def header(self, name: bytes) -> bytes | None:
        found = [value for key, value in self.sent[0]["headers"] if key == name]
        assert len(found) <= 1
        return found[0] if found else None

    def message(self) -> Any:
        return msgspec.json.decode(b"".join(event["body"] for event in self.sent[1:]))


async def answer(head: Head, exchange: Exchange) -> None:
    await exchange.read_body(1000)
    await exchange.start(200, ((b"content-type", b"application/json"),), length=2)
    await exchange.send(b"{}", more=False)


def refusing(code: ErrorCode, *, read: bool = True, scopes: tuple[str, ...] = (), **data: object) -> Handle:
    async def refuse(head: Head, exchange: Exchange) -> None:
        if read:
            await exchange.read_body(1000)
        await exchange.refuse(Refusal(GateError(code, data=data or None), 7, scopes))

    return refuse


# Heads and bodies.


async def test_the_pipeline_gets_the_head_as_it_came() -> None:
    headers = [(b"a", b"1"), (b"b", "ä".encode("latin-1")), (b"a", b"2")]
    client = await Client(answer, headers=headers, query_string=b"x=1", path="/mcp/files").run()
    (head,) = client.pipeline.heads
    assert (head.method, head.server, head.query, head.address) == ("POST", "files", b"x=1", "192.0.2.1")
    # A repeated header is seen as repeated, not as its last value.
    assert head.headers == {"a": "1, 2", "b": "ä"}


async def test_a_client_of_a_unix_socket_has_no_address() -> None:
    client = await Client(answer, client=None).run()
    assert client.pipeline.heads[0].address == "unix"


async def test_a_body_is_put_together_and_cut_off_at_its_limit() -> None:
    seen: list[bytes] = []

    async def read(head: Head, exchange: Exchange) -> None:
        seen.append(await exchange.read_body(6))
        await exchange.start(200, (), length=0)
        await exchange.send(b"", more=False)

    await Client(read, pieces=[b"abc", b"", b"def"]).run()
    assert seen == [b"abcdef"]
    with pytest.raises(GateError) as refusal:
        await Client(read, pieces=[b"abc", b"defg", b"never asked for"]).run()
    assert refusal.value.code is ErrorCode.TOO_LARGE


async def test_every_answer_carries_the_fixed_headers() -> None:
    client = await Client(answer).run()
    assert client.header(b"x-content-type-options") == b"nosniff"
    assert client.header(b"strict-transport-security") == b"max-age=31536000"
    assert client.header(b"content-length") == b"2"
    plain = await Client(answer, public_url="http://localhost:8080").run()
    assert plain.header(b"strict-transport-security") is None


async def test_a_stream_has_no_length() -> None:
    async def stream(head: Head, exchange: Exchange) -> None:
        await exchange.start(200, (), length=None)
        await exchange.send(b"a", more=True)
        await exchange.send(b"b", more=False)

    client = await Client(stream).run()
    assert client.header(b"content-length") is None
    assert [event["body"] for event in client.sent[1:]] == [b"a", b"b"]


# Refusals.


async def test_a_refusal_is_a_json_rpc_error_under_the_requests_id() -> None:
    client = await Client(refusing(ErrorCode.ROLE_NOT_PERMITTED)).run()
    assert client.status == 403
    assert client.header(b"www-authenticate") is None
    assert client.header(b"cache-control") == b"no-store"
    message = client.message()
    assert (message["id"], message["error"]["data"]) == (7, {"reason": "not_permitted"})


async def test_a_missing_credential_is_challenged_with_metadata_and_every_scope() -> None:
    # RFC 9728 section 5.1; MCP authorization, "Scope Selection Strategy".
    client = await Client(refusing(ErrorCode.CREDENTIAL_MISSING)).run()
    assert client.status == 401
    assert client.header(b"www-authenticate") == (
        b'Bearer scope="admin reports",'
        b' resource_metadata="https://mcp.example.com/.well-known/oauth-protected-resource/mcp/files"'
    )


async def test_a_scope_shortfall_names_only_the_scopes_that_would_help() -> None:
    client = await Client(refusing(ErrorCode.SCOPE_INSUFFICIENT, scopes=("reports",))).run()
    challenge = client.header(b"www-authenticate")
    assert client.status == 403
    assert challenge is not None
    assert b'error="insufficient_scope"' in challenge
    assert b'scope="reports"' in challenge


async def test_a_limited_address_is_told_when_to_come_back() -> None:
    client = await Client(refusing(ErrorCode.RATE_LIMITED, retry_after=3)).run()
    assert (client.status, client.header(b"retry-after")) == (429, b"3")


async def test_a_wrong_method_is_told_the_right_ones() -> None:
    client = await Client(refusing(ErrorCode.METHOD_NOT_ALLOWED), method="GET").run()
    assert (client.status, client.header(b"allow")) == (405, b"GET, POST, DELETE")


@pytest.mark.parametrize(("read", "connection"), [(True, None), (False, b"close")])
async def test_a_connection_whose_body_was_not_read_is_closed(read: bool, connection: bytes | None) -> None:
    client = await Client(refusing(ErrorCode.TOKEN_EXPIRED, read=read)).run()
    assert client.header(b"connection") == connection


# Browsers.


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "", "https://app.example.com.evil.example", "https://APP.example.com"]
)
@pytest.mark.parametrize("method", ["POST", "OPTIONS", "GET"])
async def test_another_origin_is_refused_counted_and_told_nothing(origin: str, method: str) -> None:
    # MCP, transports: "Servers MUST validate the Origin header".
    client = await Client(answer, headers=[(b"origin", origin.encode())], method=method).run()
    assert client.status == 403
    assert client.pipeline.strangers == [ErrorCode.ORIGIN_REFUSED]
    assert client.pipeline.heads == []
    assert client.pipeline.taken == ["192.0.2.1"]
    assert client.header(b"access-control-allow-origin") is None


@pytest.mark.parametrize("origin", [URL, "https://app.example.com"])
async def test_an_allowed_origin_gets_its_own_name_back_and_credentials_are_never_allowed(origin: str) -> None:
    client = await Client(answer, headers=[(b"origin", origin.encode())]).run()
    assert client.status == 200
    assert client.header(b"access-control-allow-origin") == origin.encode()
    assert client.header(b"vary") == b"Origin"
    assert client.header(b"access-control-allow-credentials") is None
    refused = await Client(refusing(ErrorCode.CREDENTIAL_MISSING), headers=[(b"origin", origin.encode())]).run()
    # A page must be able to read the challenge.
    assert refused.header(b"access-control-allow-origin") == origin.encode()
    assert b"www-authenticate" in (refused.header(b"access-control-expose-headers") or b"")


async def test_a_preflight_is_answered_without_the_pipeline_and_counted() -> None:
    headers = [(b"origin", URL.encode()), (b"access-control-request-method", b"POST")]
    client = await Client(answer, headers=headers, method="OPTIONS").run()
    assert (client.status, client.pipeline.heads, client.pipeline.taken) == (204, [], ["192.0.2.1"])
    assert b"authorization" in (client.header(b"access-control-allow-headers") or b"")
    full = Client(answer, headers=headers, method="OPTIONS")
    full.pipeline.full = True
    await full.run()
    assert (full.status, full.pipeline.strangers) == (429, [ErrorCode.RATE_LIMITED])


async def test_without_an_origin_there_is_no_cors() -> None:
    client = await Client(answer).run()
    assert client.header(b"access-control-allow-origin") is None
    options = await Client(refusing(ErrorCode.METHOD_NOT_ALLOWED, read=False), method="OPTIONS").run()
    assert options.status == 405


# Clients that go away.


@pytest.fixture
def _watched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_AFTER", 0)


class Stuck:
    """A call that waits for ever after its body, and knows whether it was cancelled."""

    def __init__(self) -> None:
        self.waiting = asyncio.Event()
        self.cancelled = False

    async def __call__(self, head: Head, exchange: Exchange) -> None:
        await exchange.read_body(1000)
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def settled() -> None:
    """Let every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.usefixtures("_watched_at_once")
async def test_a_client_that_goes_away_cancels_its_call_quietly() -> None:
    stuck = Stuck()
    client = Client(stuck)
    running = asyncio.create_task(client.run())
    await stuck.waiting.wait()
    client.gone.set()
    async with asyncio.timeout(5):
        await running
    assert stuck.cancelled
    assert client.sent == []


@pytest.mark.usefixtures("_watched_at_once")
async def test_it_does_so_too_if_its_body_came_after_the_watch_began() -> None:
    stuck = Stuck()
    client = Client(stuck)
    client.body_held = asyncio.Event()
    running = asyncio.create_task(client.run())
    await settled()
    assert client.receiving == 1
    client.body_held.set()
    await stuck.waiting.wait()
    await settled()
    client.gone.set()
    async with asyncio.timeout(5):
        await running
    assert stuck.cancelled


async def test_a_client_that_goes_away_inside_its_body_ends_the_request_quietly() -> None:
    client = Client(answer, pieces=[])
    client.gone.set()
    await client.run()
    assert client.sent == []


@pytest.mark.usefixtures("_watched_at_once")
async def test_work_after_a_complete_answer_is_not_cancelled_by_its_end() -> None:
    finished = asyncio.Event()

    async def slow_end(head: Head, exchange: Exchange) -> None:
        await exchange.read_body(1000)
        await settled()  # the watch has begun
        await exchange.start(200, (), length=0)
        await exchange.send(b"", more=False)
        await settled()  # as the release of an upstream connection may take
        finished.set()

    await Client(slow_end).run()
    assert finished.is_set()


async def test_a_short_call_is_never_watched() -> None:
    client = await Client(answer).run()
    await settled()
    assert client.receiving == 0


@pytest.mark.usefixtures("_watched_at_once")
async def test_a_cancellation_that_is_not_the_clients_goes_on() -> None:
    stuck = Stuck()
    running = asyncio.create_task(Client(stuck).run())
    await stuck.waiting.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_an_answer_that_is_broken_off_ends_without_its_last_piece() -> None:
    async def break_off(head: Head, exchange: Exchange) -> None:
        await exchange.start(200, (), length=None)
        await exchange.send(b"a", more=True)
        await exchange.abort()

    client = await Client(break_off).run()
    assert [event.get("more_body") for event in client.sent] == [None, True]


# Our own server: the same without ASGI's messages.


class Wire:
    """A transport that notes what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


class Direct(Client):
    """One request as our own server brings it: its cycle stands behind `receive` and `send`."""

    def __init__(self, handle: Handle, **changes: Any) -> None:
        super().__init__(handle, **changes)
        self.wire = Wire()
        transport, logger = cast("asyncio.Transport", self.wire), logging.getLogger("test")
        self.cycle = AnswerCycle(
            scope=cast("Any", self.scope),
            transport=transport,
            flow=FlowControl(transport),
            logger=logger,
            access_logger=logger,
            access_log=False,
            default_headers=[(b"date", b"now")],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=True,
            on_response=lambda: None,
        )

    def arrive(self, data: bytes, *, more: bool = False) -> None:
        self.cycle.body += data
        self.cycle.more_body = more
        self.cycle.message_event.set()

    async def run(self) -> Client:
        await self.app(self.scope, cast("Any", self.cycle.receive), cast("Any", self.cycle.send))
        return self


async def usual(head: Head, exchange: Exchange) -> None:
    body = await exchange.read_body(6)
    await exchange.start(200, JSON_ANSWER, length=len(body))
    await exchange.send(body, more=False)


@pytest.mark.parametrize("public_url", [URL, "http://localhost:8080"])
async def test_our_own_server_gets_the_same_answer_as_any_other(public_url: str) -> None:
    by_asgi = await Client(usual, public_url=public_url).run()
    direct = Direct(usual, public_url=public_url)
    direct.arrive(b"{}")
    await direct.run()
    head, _, body = direct.wire.written.partition(b"\r\n\r\n")
    lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
    assert lines == {b"date": b"now", **dict(by_asgi.sent[0]["headers"])}
    assert body == by_asgi.sent[1]["body"] == b"{}"
    assert direct.cycle.response_complete


async def test_a_browser_gets_its_origin_back_from_our_own_server_too() -> None:
    direct = Direct(usual, headers=[(b"origin", URL.encode())])
    direct.arrive(b"{}")
    await direct.run()
    assert b"access-control-allow-origin: " + URL.encode() in direct.wire.written
    assert direct.wire.written.endswith(b"\r\n\r\n{}")


async def test_a_body_that_comes_in_pieces_is_put_together_for_our_own_server_too() -> None:
    direct = Direct(usual)
    direct.arrive(b"abc", more=True)
    running = asyncio.create_task(direct.run())
    await settled()
    direct.arrive(b"def")
    async with asyncio.timeout(5):
        await running
    assert direct.wire.written.endswith(b"\r\n\r\nabcdef")


@pytest.mark.parametrize("more", [False, True])
async def test_a_body_over_its_limit_is_cut_off_by_our_own_server_too(more: bool) -> None:
    async def refuse(head: Head, exchange: Exchange) -> None:
        try:
            await exchange.read_body(6)
        except GateError as error:
            await exchange.refuse(Refusal(error))

    direct = Direct(refuse)
    direct.arrive(b"abcdefg", more=more)
    await direct.run()
    assert direct.wire.written.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close\r\n" in direct.wire.written
    assert direct.wire.closed


@pytest.mark.usefixtures("_watched_at_once")
async def test_a_client_of_our_own_server_that_goes_away_cancels_its_call() -> None:
    stuck = Stuck()
    direct = Direct(stuck)
    direct.arrive(b"{}")
    running = asyncio.create_task(direct.run())
    await stuck.waiting.wait()
    direct.cycle.disconnected = True
    direct.cycle.message_event.set()
    async with asyncio.timeout(5):
        await running
    assert stuck.cancelled
    assert direct.wire.written == b""
