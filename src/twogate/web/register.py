"""Dynamic client registration over HTTP: JSON to flow and back, nothing decided here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import ErrorCode
from twogate.core.oauth.metadata import REGISTER_PATH
from twogate.flows.authserver.form import Answer, FormRefused
from twogate.flows.authserver.register import MAX_BODY, Registration, RegistrationRequest
from twogate.web.authserver import JSON, OnlyMethods, error_response, read_capped
from twogate.web.headers import security_headers
from twogate.web.peer import peer_address

# Browser clients register themselves too (DESIGN decision 21); cookies never matter here.
_CORS: Final = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "WWW-Authenticate"}
_HEADERS: Final = "Authorization, Content-Type, MCP-Protocol-Version"
_NO_CONTENT: Final = 204

Serve = Callable[[RegistrationRequest, str], Awaitable[Answer]]


def register_routes(registration: Registration, public_url: str) -> list[Route]:
    """`POST /register` (RFC 7591), and `GET`, `PUT`, `DELETE /register/{client_id}` (RFC 7592)."""

    async def register(request: RegistrationRequest, _: str) -> Answer:
        return await registration.register(request)

    managing: dict[str, Serve] = {"GET": registration.read, "PUT": registration.change, "DELETE": registration.remove}
    return [
        _route(REGISTER_PATH, {"POST": register}, public_url),
        _route(f"{REGISTER_PATH}/{{client_id}}", managing, public_url),
    ]


def _route(path: str, serving: dict[str, Serve], public_url: str) -> Route:
    base = {**security_headers(public_url), **_CORS}
    preflight = {
        **base,
        "Access-Control-Allow-Methods": ", ".join(serving),
        "Access-Control-Allow-Headers": _HEADERS,
        "Access-Control-Max-Age": "86400",
    }

    async def answer(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=_NO_CONTENT, headers=preflight)
        asked = RegistrationRequest(
            content_type=tuple(request.headers.getlist("content-type")),
            authorization=tuple(request.headers.getlist("authorization")),
            query=request.url.query,
            body=await read_capped(request, MAX_BODY),
            address=peer_address(request.scope),
        )
        served = await serving[request.method](asked, str(request.path_params.get("client_id", "")))
        headers = {**base, "Cache-Control": "no-store"}
        if isinstance(served, FormRefused):
            if served.code is ErrorCode.REGISTRATION_REFUSED:
                # RFC 6750 section 3.1: without any credential there is no error word.
                headers["WWW-Authenticate"] = 'Bearer error="invalid_token"' if asked.authorization else "Bearer"
            return error_response(served.code, headers, description=served.description)
        if served.status == _NO_CONTENT:
            return Response(status_code=_NO_CONTENT, headers=headers)
        return Response(msgspec.json.encode(served.body), served.status, headers, JSON)

    return Route(path, OnlyMethods(answer, base, *serving, "OPTIONS"))
