"""`POST /sessions` and `GET /sessions` over HTTP."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import encode_error
from twogate.core.oauth.resource import SESSIONS_PATH, metadata_url
from twogate.flows.declare import MAX_BODY, DeclareTask
from twogate.flows.gateway.possession import NONCE
from twogate.flows.list_sessions import ListSessions
from twogate.web.authserver import OnlyMethods
from twogate.web.errors import http_status, www_authenticate
from twogate.web.headers import security_headers
from twogate.web.peer import peer_address, peer_certificate

_JSON: Final = "application/json"


def session_routes(declare: DeclareTask, listing: ListSessions, public_url: str, scopes: frozenset[str]) -> list[Route]:
    """The routes, for the control plane's application."""
    base = {**security_headers(public_url), "Cache-Control": "no-store"}

    def refused(error: GateError) -> Response:
        headers = dict(base)
        challenge = www_authenticate(error.code, metadata_url(public_url, SESSIONS_PATH), scopes)
        if challenge is not None:
            headers["WWW-Authenticate"] = challenge
        if error.data is not None and NONCE in error.data:
            headers["DPoP-Nonce"] = str(error.data[NONCE])
        return Response(encode_error(None, error.code, error.data), http_status(error.code), headers, _JSON)

    async def create(request: Request) -> Response:
        address = peer_address(request.scope)
        try:
            certificate = peer_certificate(request.scope)
            session = await declare.respond(dict(request.headers), lambda: _read(request), address, certificate)
        except GateError as error:
            return refused(error)
        answer = {
            "session": session.id,
            "task": session.task,
            "created_at": session.created_at,
            "deadline": session.deadline,
        }
        return Response(msgspec.json.encode(answer), 200, base, _JSON)

    async def show(request: Request) -> Response:
        try:
            certificate = peer_certificate(request.scope)
            live = await listing.respond(dict(request.headers), peer_address(request.scope), certificate)
        except GateError as error:
            return refused(error)
        rows = [
            {
                "session": session.id,
                "agent": f"{session.principal.tenant}/{session.principal.agent}",
                "task": session.task,
                "created_at": session.created_at,
                "deadline": session.deadline,
            }
            for session in live
        ]
        return Response(msgspec.json.encode({"sessions": rows}), 200, base, _JSON)

    async def serve(request: Request) -> Response:
        return await (create if request.method == "POST" else show)(request)

    return [Route(SESSIONS_PATH, OnlyMethods(serve, base, "GET", "POST"))]


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise GateError(ErrorCode.TOO_LARGE, f"a body of more than {MAX_BODY} bytes")
    return bytes(body)
