"""The one ASGI application: the data plane under `/mcp/`, everything else the control plane, and the life of both."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from twogate.core.errors import ErrorCode, GateError
from twogate.flows.audit import Refusals
from twogate.flows.environment import Clock
from twogate.flows.gateway.catalogue import Catalogue
from twogate.flows.gateway.record import refused_event
from twogate.flows.gateway.upstream import Upstream
from twogate.web.authserver import error_response
from twogate.web.gateway import PREFIX
from twogate.web.generation import Generation
from twogate.web.headers import security_headers
from twogate.web.peer import peer_address


class RootApp:
    """Routes requests to the current generation, and limits those of the control plane by address.

    The data plane limits its own requests.
    """

    def __init__(
        self,
        generation: Generation,
        *,
        refusals: Refusals,
        clock: Clock,
        on_refusal: Callable[[str, ErrorCode], None],
        start: Callable[[], Awaitable[None]],
        stop: Callable[[], Awaitable[None]],
    ) -> None:
        """`start` and `stop` are those of the process; the generations' connections are closed here."""
        self.current = generation
        self._retired: list[Generation] = []
        self._upstreams = set(generation.upstreams.values())
        self._closing: set[asyncio.Task[None]] = set()
        self._refusals = refusals
        self._clock = clock
        self.on_refusal = on_refusal
        """For the HTTP edge: told each request that it refuses before this application."""
        self._base = security_headers(generation.settings.public_url)
        self._start = start
        self._stop = stop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or the lifespan."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        generation, path = self.current, scope["path"]
        if path.startswith(PREFIX):
            generation.begin(path)
            try:
                await generation.gateway(scope, receive, send)
            finally:
                generation.end(path)
                if generation is not self.current:
                    self._close_unused()
        elif path in ("/healthz", "/readyz") or await self._may_enter(generation, scope, receive, send):
            await generation.control(scope, receive, send)

    async def open(self) -> None:
        """Begin to serve: the lifespan's beginning."""
        await self._start()

    async def close(self) -> None:
        """Close every connection, and what the process started: the lifespan's end."""
        await self._close_all()
        await self._stop()

    def adopt(self, generation: Generation) -> None:
        """Let a generation answer every request from now on.

        What is under way ends under the generation it began with; a server's connections that the new one did not
        take over are closed after the last call that may need them.
        """
        self.current.superseded.set()
        self._retired.append(self.current)
        self.current = generation
        self._upstreams.update(generation.upstreams.values())
        self._close_unused()

    def _close_unused(self) -> None:
        retired, self._retired = self._retired, []
        needed = set(self.current.upstreams.values())
        for generation in retired:
            if generation.calls:
                self._retired.append(generation)
                needed.update(generation.in_use())
            else:
                self._close(generation.catalogue)
        for upstream in self._upstreams - needed:
            self._upstreams.discard(upstream)
            self._close(upstream)

    def _close(self, part: Catalogue | Upstream) -> None:
        task = asyncio.get_running_loop().create_task(part.aclose())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_all(self) -> None:
        for generation in (self.current, *self._retired):
            self._close(generation.catalogue)
        for upstream in self._upstreams:
            self._close(upstream)
        # A call that was cut off may end later still, and must find nothing to close again.
        self._retired.clear()
        self._upstreams.clear()
        await asyncio.wait(self._closing)

    async def _may_enter(self, generation: Generation, scope: Scope, receive: Receive, send: Send) -> bool:
        address = peer_address(scope)
        wait = generation.limit.take(address, self._clock.monotonic())
        if not wait:
            return True
        error = GateError(ErrorCode.RATE_LIMITED, scope["path"])
        try:
            await self._refusals.record(refused_event(error, at=self._clock.now_us(), address=address))
        except GateError as unrecorded:
            error = unrecorded
        response = error_response(error.code, {**self._base, "Retry-After": str(int(wait) + 1)})
        await response(scope, receive, send)
        return False

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.open()
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return


def health_routes(ready: Callable[[], Awaitable[None]], draining: Callable[[], bool], public_url: str) -> list[Route]:
    """`/healthz` says that the process runs, `/readyz` that it can serve: its store and its audit trail work.

    From the signal to stop on it is not ready any more.
    """
    base = {**security_headers(public_url), "Cache-Control": "no-store"}

    async def healthz(_: Request) -> Response:
        return Response(b'{"status":"ok"}', headers=base, media_type="application/json")

    async def readyz(_: Request) -> Response:
        if draining():
            return Response(b'{"status":"unavailable","reason":"draining"}', 503, base, "application/json")
        try:
            await ready()
        except GateError as error:
            body = msgspec.json.encode({"status": "unavailable", "reason": error.code.value})
            return Response(body, 503, base, "application/json")
        return Response(b'{"status":"ready"}', headers=base, media_type="application/json")

    return [Route("/healthz", healthz, methods=["GET"]), Route("/readyz", readyz, methods=["GET"])]


def plain_refusals(public_url: str) -> Mapping[int, Callable[[Request, Exception], Response]]:
    """Answers for unknown paths and methods by the one error table, with every header, instead of Starlette's own."""
    base = security_headers(public_url)

    def refuse(code: ErrorCode) -> Callable[[Request, Exception], Response]:
        def answer(_: Request, error: Exception) -> Response:
            allow = (error.headers or {}).get("Allow") if isinstance(error, HTTPException) else None
            return error_response(code, base if allow is None else {**base, "Allow": allow})

        return answer

    return {404: refuse(ErrorCode.NOT_FOUND), 405: refuse(ErrorCode.METHOD_NOT_ALLOWED)}
