"""The one application: who gets which request, the control plane's limit, health, generations, the life of it all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from gatelab import FakeClock
from rawlab import until
from twogate.config import parse_settings
from twogate.core.audit.record import AuditEvent
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.catalogue import Catalogue
from twogate.flows.gateway.limit import AddressLimit, CallRates, UnderWay
from twogate.flows.gateway.upstream import Upstream, UpstreamAnswer, UpstreamRequest
from twogate.web.generation import Generation
from twogate.web.root import RootApp, health_routes

URL = "https://mcp.example.com"
SETTINGS = f"""
public_url: {URL}
listen: unix:/nowhere/http.sock
store: sqlite:////nowhere/twogate.db
tenants: {{acme: {{}}}}
"""


def generation(
    gateway: ASGIApp,
    control: ASGIApp,
    upstreams: Mapping[str, Upstream] | None = None,
    limit: AddressLimit | None = None,
) -> Generation:
    return Generation(
        settings=parse_settings(SETTINGS, Path("/nowhere/twogate.yaml")),
        gateway=gateway,
        control=control,
        limit=limit or AddressLimit(rate=1, burst=100),
        under_way=UnderWay(1),
        rates=CallRates(),
        streams=UnderWay(1),
        upstreams=upstreams or {},
        keys={},
        authorities={},
        catalogue=Catalogue({}, FakeClock()),
        superseded=asyncio.Event(),
    )


class Lab:
    """A root application whose planes say their names."""

    def __init__(self, burst: int = 100) -> None:
        self.journal: list[str] = []
        self.refused: list[AuditEvent] = []
        self.clock = FakeClock()
        self.audit_broken = False
        self.store_broken = False
        self.draining = False
        health = health_routes(self.ready, lambda: self.draining, URL)
        control = Starlette(routes=[*health, Route("/{path:path}", self.control)])
        self.app = RootApp(
            generation(self.gateway, control, limit=AddressLimit(rate=1, burst=burst)),
            refusals=self,
            clock=self.clock,
            on_refusal=lambda address, code: None,
            start=self.start,
            stop=self.stop,
        )

    async def gateway(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("gateway")(scope, receive, send)

    async def control(self, request: Request) -> Response:
        return PlainTextResponse("control")

    async def ready(self) -> None:
        if self.store_broken:
            raise GateError(ErrorCode.STORE_UNAVAILABLE, "disk full at sector 7")

    async def record(self, event: AuditEvent) -> None:
        if self.audit_broken:
            raise GateError(ErrorCode.AUDIT_UNAVAILABLE)
        self.refused.append(event)

    async def start(self) -> None:
        self.journal.append("started")

    async def stop(self) -> None:
        self.journal.append("stopped")

    async def get(self, path: str) -> httpx2.Response:
        transport = httpx2.ASGITransport(app=self.app, client=("192.0.2.1", 40000))
        async with httpx2.AsyncClient(transport=transport, base_url=URL) as http:
            return await http.get(path)


@pytest.mark.parametrize(
    ("path", "plane"),
    [
        ("/mcp/files", "gateway"),
        ("/mcp/", "gateway"),
        ("/mcp", "control"),
        ("/mcpx", "control"),
        ("/MCP/files", "control"),
        ("/token", "control"),
        ("/.well-known/jwks.json", "control"),
    ],
)
async def test_the_data_plane_gets_what_lies_under_mcp_and_nothing_else(path: str, plane: str) -> None:
    assert (await Lab().get(path)).text == plane


async def test_the_control_plane_is_limited_by_address_and_says_when_to_come_back() -> None:
    lab = Lab(burst=2)
    assert [(await lab.get("/token")).status_code for _ in range(3)] == [200, 200, 429]
    refused = await lab.get("/token")
    assert refused.headers["retry-after"] == "2"
    assert refused.headers["cache-control"] == "no-store"
    assert refused.headers["strict-transport-security"]
    assert [(event.reason, event.address) for event in lab.refused] == [(ErrorCode.RATE_LIMITED, "192.0.2.1")] * 2
    lab.clock.advance(1)
    assert (await lab.get("/token")).status_code == 200


async def test_the_data_plane_and_health_checks_are_not_limited_here() -> None:
    lab = Lab(burst=1)
    await lab.get("/token")
    for path in ("/mcp/files", "/healthz", "/readyz"):
        assert (await lab.get(path)).status_code == 200


async def test_a_refusal_that_cannot_be_written_down_is_unavailable() -> None:
    lab = Lab(burst=1)
    lab.audit_broken = True
    await lab.get("/token")
    assert (await lab.get("/token")).status_code == 503


async def test_health_says_that_the_process_runs_and_readiness_that_it_can_serve() -> None:
    lab = Lab()
    assert (await lab.get("/readyz")).json() == {"status": "ready"}
    lab.store_broken = True
    assert (await lab.get("/healthz")).json() == {"status": "ok"}
    unready = await lab.get("/readyz")
    assert (unready.status_code, unready.json()) == (503, {"status": "unavailable", "reason": "store_unavailable"})
    assert unready.headers["cache-control"] == "no-store"
    assert unready.headers["x-content-type-options"] == "nosniff"


async def test_a_draining_process_is_alive_but_not_ready() -> None:
    lab = Lab()
    lab.draining = True
    assert (await lab.get("/healthz")).status_code == 200
    unready = await lab.get("/readyz")
    assert (unready.status_code, unready.json()) == (503, {"status": "unavailable", "reason": "draining"})
    assert unready.headers["cache-control"] == "no-store"


# --- generations


class Server(Upstream):
    """A server's connections, which note that they were closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        raise NotImplementedError

    async def aclose(self) -> None:
        assert not self.closed.is_set()
        self.closed.set()


class Turnover:
    """A root application whose calls last until they are let go."""

    def __init__(self, **upstreams: Upstream) -> None:
        self.lab = Lab()
        self.under_way: dict[str, asyncio.Event] = {}
        self.lab.app = RootApp(
            self.generation("first", upstreams),
            refusals=self.lab,
            clock=self.lab.clock,
            on_refusal=lambda address, code: None,
            start=self.lab.start,
            stop=self.lab.stop,
        )

    def generation(self, name: str, upstreams: Mapping[str, Upstream]) -> Generation:
        async def gateway(scope: Scope, receive: Receive, send: Send) -> None:
            held = self.under_way[f"{name} {scope['path']}"] = asyncio.Event()
            await held.wait()
            await PlainTextResponse(name)(scope, receive, send)

        async def control(scope: Scope, receive: Receive, send: Send) -> None:
            await PlainTextResponse(f"{name} control")(scope, receive, send)

        return generation(gateway, control, upstreams)

    def adopt(self, name: str, **upstreams: Upstream) -> None:
        self.lab.app.adopt(self.generation(name, upstreams))

    async def call(self, name: str, path: str) -> asyncio.Task[httpx2.Response]:
        """A call that is under way in the generation of this name."""
        task = asyncio.create_task(self.lab.get(path))
        await until(lambda: f"{name} {path}" in self.under_way)
        return task

    async def let_go(self, name: str, path: str, task: asyncio.Task[httpx2.Response]) -> None:
        """Let a call end; its answer must be that of the generation it began with."""
        self.under_way.pop(f"{name} {path}").set()
        assert (await task).text == name


async def settled() -> None:
    """Let everything run that is ready to."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_call_ends_in_its_generation_and_the_next_request_is_the_new_ones() -> None:
    world = Turnover()
    old = await world.call("first", "/mcp/files")
    retired = world.lab.app.current
    world.adopt("second")
    assert retired.superseded.is_set()
    new = await world.call("second", "/mcp/files")
    assert (await world.lab.get("/token")).text == "second control"
    await world.let_go("first", "/mcp/files", old)
    await world.let_go("second", "/mcp/files", new)
    assert (retired.calls, world.lab.app.current.calls) == ({}, {})


async def test_what_the_new_generation_took_over_stays_open_and_the_rest_is_closed_after_its_last_call() -> None:
    kept, changed, removed = Server(), Server(), Server()
    world = Turnover(kept=kept, changed=changed, removed=removed)
    calls = {path: await world.call("first", path) for path in ("/mcp/kept", "/mcp/changed")}
    replacement = Server()
    world.adopt("second", kept=kept, changed=replacement)
    await removed.closed.wait()  # nothing used it
    await settled()
    assert not changed.closed.is_set()
    await world.let_go("first", "/mcp/changed", calls["/mcp/changed"])
    await changed.closed.wait()  # though the other call of its generation goes on
    await world.let_go("first", "/mcp/kept", calls["/mcp/kept"])
    await settled()
    assert not kept.closed.is_set()
    assert not replacement.closed.is_set()


async def test_connections_of_several_generations_are_closed_after_the_last_call_of_all_of_them() -> None:
    server = Server()
    world = Turnover(files=server)
    first = await world.call("first", "/mcp/files")
    world.adopt("second", files=server)
    second = await world.call("second", "/mcp/files")
    world.adopt("third")
    await world.let_go("first", "/mcp/files", first)
    await settled()
    assert not server.closed.is_set()
    await world.let_go("second", "/mcp/files", second)
    await server.closed.wait()


@pytest.mark.parametrize("path", ["/mcp/", "/mcp/unknown", "/mcp/files/sse", "/mcp//files"])
async def test_a_call_that_may_lead_to_a_server_holds_its_connections_open(path: str) -> None:
    server = Server()
    world = Turnover(files=server)
    call = await world.call("first", path)
    world.adopt("second")
    await settled()
    assert not server.closed.is_set()
    await world.let_go("first", path, call)
    await server.closed.wait()


async def test_a_call_that_breaks_off_is_counted_out() -> None:
    server = Server()
    world = Turnover(files=server)
    call = await world.call("first", "/mcp/files")
    world.adopt("second")
    call.cancel()
    await server.closed.wait()


async def test_at_the_end_everything_of_every_generation_is_closed_once() -> None:
    servers = [Server() for _ in range(3)]
    world = Turnover(files=servers[0])
    call = await world.call("first", "/mcp/files")
    world.adopt("second", files=servers[1])
    world.adopt("third", files=servers[2])
    asked = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> MutableMapping[str, Any]:
        return asked.pop(0)

    async def send(event: MutableMapping[str, Any]) -> None:
        world.lab.journal.append(event["type"])

    await world.lab.app({"type": "lifespan"}, receive, send)
    assert all(server.closed.is_set() for server in servers)
    assert world.lab.journal[-2:] == ["stopped", "lifespan.shutdown.complete"]
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_it_starts_before_it_says_so_and_stops_likewise() -> None:
    lab = Lab()
    asked = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]

    async def receive() -> MutableMapping[str, Any]:
        lab.journal.append("asked")
        return asked.pop(0)

    async def send(event: MutableMapping[str, Any]) -> None:
        lab.journal.append(event["type"])

    await lab.app({"type": "lifespan"}, receive, send)
    assert lab.journal == [
        "asked", "started", "lifespan.startup.complete", "asked", "stopped", "lifespan.shutdown.complete",
    ]  # fmt: skip
