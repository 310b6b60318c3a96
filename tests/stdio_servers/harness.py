"""What the tests of stdio and HTTP+SSE upstreams share: clients, the small servers beside this file, views of /proc."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from twogate.adapters.upstream.duplex import DuplexUpstream
from twogate.adapters.upstream.stdio import StdioLimits, StdioUpstream
from twogate.core.message import Kind, Message
from twogate.core.principal import PrincipalKey, UserId
from twogate.flows.gateway.upstream import UpstreamAnswer, UpstreamRequest

HERE = Path(__file__).parent
BOT = PrincipalKey("acme", "https://issuer.example", "bot", None)
OTHER_TENANT = PrincipalKey("globex", "https://issuer.example", "bot", None)
OTHER_ISSUER = PrincipalKey("acme", "https://other.example", "bot", None)
OTHER_AGENT = PrincipalKey("acme", "https://issuer.example", "robot", None)
ALICE = PrincipalKey("acme", "https://issuer.example", "bot", UserId("https://issuer.example", "alice"))
BOB = PrincipalKey("acme", "https://issuer.example", "bot", UserId("https://issuer.example", "bob"))


class StepClock:
    """A clock that moves only when told; the upstream's own waits use the event loop's."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> int:
        return int(self.at)

    def now_us(self) -> int:
        return int(self.at * 1_000_000)

    def monotonic(self) -> float:
        return self.at


class Client:
    """Sends messages to one upstream as the pipeline would."""

    def __init__(self, upstream: DuplexUpstream, clock: StepClock, logged: list[tuple[str, str]]) -> None:
        self.upstream = upstream
        self.clock = clock
        self.logged = logged

    async def send(
        self,
        method: str,
        params: Mapping[str, Any],
        *,
        identifier: str | int | None = 1,
        owner: PrincipalKey = BOT,
        modern: bool = False,
        timeout: float = 30.0,  # noqa: ASYNC109 - of the request
        session: str | None = None,
    ) -> UpstreamAnswer:
        kind = Kind.NOTIFICATION if identifier is None else Kind.REQUEST
        message = Message(kind, identifier, method, dict(params))
        stream = method == "subscriptions/listen"
        return await self.upstream.send(
            UpstreamRequest(owner, "POST", (), b"", message, modern, timeout, session, stream)
        )

    async def initialize(self, *, version: str = "2025-11-25", owner: PrincipalKey = BOT, **capabilities: Any) -> str:
        """Shake hands as a client with these capabilities; the session id."""
        params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": {"name": "c"}}
        answer = await self.send("initialize", params, owner=owner)
        assert answer.status == 200
        assert answer.session_id is not None
        return answer.session_id

    async def respond(
        self,
        identifier: str | int,
        payload: Any,
        *,
        session: str | None,
        owner: PrincipalKey = BOT,
        timeout: float = 30.0,  # noqa: ASYNC109 - of the request
    ) -> UpstreamAnswer:
        """Answer a question of the server's."""
        message = Message(Kind.RESPONSE, identifier, "", {}, payload)
        return await self.upstream.send(UpstreamRequest(owner, "POST", (), b"", message, False, timeout, session))

    async def listen(
        self, session: str | None = None, *, owner: PrincipalKey = BOT, modern: bool = False
    ) -> UpstreamAnswer:
        """Open the stream of what belongs to no call."""
        return await self.upstream.send(UpstreamRequest(owner, "GET", (), b"", None, modern, 30.0, session, True))

    async def end(self, session: str | None, *, owner: PrincipalKey = BOT) -> UpstreamAnswer:
        """End a session."""
        return await self.upstream.send(UpstreamRequest(owner, "DELETE", (), b"", None, False, 30.0, session))

    async def start_call(self, name: str, /, meta: Mapping[str, Any] | None = None, **how: Any) -> UpstreamAnswer:
        arguments = how.pop("arguments", {})
        params = {"name": name, "arguments": arguments} | ({} if meta is None else {"_meta": meta})
        return await self.send("tools/call", params, **how)

    async def call(self, name: str, /, **how: Any) -> Any:
        """The response to a `tools/call`, whatever precedes it: its `result`, or the whole of an error response."""
        answer = (await messages(await self.start_call(name, **how)))[-1]
        return answer.get("result", answer)

    async def pid(self, **how: Any) -> int:
        result = await self.call("pid", **how)
        assert isinstance(result["pid"], int)
        return result["pid"]

    async def until_seen(self, check: Callable[[dict[str, Any]], bool], **how: Any) -> dict[str, Any]:
        """The first message that the server has seen and `check` accepts."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + 10
        while True:
            for message in (await self.call("seen", **how))["seen"]:
                if check(message):
                    assert isinstance(message, dict)
                    return message
            assert loop.time() < deadline, "the server never saw it"


def client(script: str, *arguments: str, environment: Mapping[str, str] | None = None, **limits: Any) -> Client:
    clock = StepClock()
    logged: list[tuple[str, str]] = []
    upstream = StdioUpstream(
        (sys.executable, "-I", str(HERE / script), *arguments),
        cwd=None,
        environment=environment or {},
        limits=StdioLimits(**{"grace": 0.2, **limits}),
        clock=clock,
        log=lambda name, line: logged.append((name, line)),
        name="under-test",
    )
    return Client(upstream, clock, logged)


async def raw(answer: UpstreamAnswer) -> bytes:
    return b"".join([chunk async for chunk in answer.chunks()])


async def body(answer: UpstreamAnswer) -> dict[str, Any]:
    assert (answer.status, answer.content_type) == (200, "application/json")
    parsed = json.loads(await raw(answer))
    assert isinstance(parsed, dict)
    return parsed


async def messages(answer: UpstreamAnswer) -> list[dict[str, Any]]:
    """Every message of an answer, in whatever form it comes."""
    if answer.content_type == "application/json":
        return [await body(answer)]
    assert (answer.status, answer.content_type, answer.session_id) == (200, "text/event-stream", None)
    return [event(chunk) async for chunk in answer.chunks()]


class Reader:
    """Reads a stream event by event."""

    def __init__(self, answer: UpstreamAnswer) -> None:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
        self.answer = answer
        self._chunks = answer.chunks()

    async def next(self) -> dict[str, Any]:
        """The next message, which must come."""
        async with asyncio.timeout(20):
            return event(await anext(self._chunks))

    async def ended(self) -> bool:
        """Whether nothing follows; waits for the end or a message."""
        async with asyncio.timeout(20):
            return await anext(self._chunks, None) is None


def event(chunk: bytes) -> dict[str, Any]:
    """The message of one server-sent event, which must have the one form that we write."""
    assert chunk.startswith(b"event: message\ndata: ")
    assert chunk.endswith(b"\n\n")
    parsed = json.loads(chunk.removeprefix(b"event: message\ndata: "))
    assert isinstance(parsed, dict)
    return parsed


async def until(check: Callable[[], bool], what: str) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 20
    while not check():
        assert loop.time() < deadline, what
        await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that its new parent has not collected does not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    return False


def exists(pid: int) -> bool:
    """Whether a process or its zombie exists."""
    return Path(f"/proc/{pid}").exists()


def supervisor_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


def of_proc(pid: int | str, what: str) -> str:
    """A text file of a process in /proc."""
    return Path(f"/proc/{pid}/{what}").read_text()


def content(path: Path) -> str:
    """A file's text."""
    return path.read_text()


def forked(where: Path) -> dict[str, int]:
    """The processes that `hostile.py` forked and wrote down, by kind."""
    return {path.name.partition("-")[0]: int(path.name.partition("-")[2]) for path in where.iterdir()}


def is_gone(path: str) -> bool:
    """Whether nothing is there any more."""
    return not Path(path).exists()
