"""The one application: who gets which request, the control plane's limit, health, and the life of it all."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gatelab import FakeClock
from twogate.core.audit.record import AuditEvent
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.limit import AddressLimit
from twogate.web.root import RootApp, health_routes

URL = "https://mcp.example.com"


class Lab:
    """A root application whose planes say their names."""

    def __init__(self, burst: int = 100) -> None:
        self.journal: list[str] = []
        self.refused: list[AuditEvent] = []
        self.clock = FakeClock()
        self.audit_broken = False
        self.store_broken = False
        control = Starlette(routes=[*health_routes(self.ready, URL), Route("/{path:path}", self.control)])
        self.app = RootApp(
            self.gateway,
            control,
            limit=AddressLimit(rate=1, burst=burst),
            refusals=self,
            clock=self.clock,
            public_url=URL,
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
