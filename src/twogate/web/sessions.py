"""`POST /sessions` over HTTP."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import encode_error
from twogate.core.oauth.resource import SESSIONS_PATH, metadata_url
from twogate.flows.declare import MAX_BODY, DeclareTask
from twogate.flows.gateway.possession import NONCE
from twogate.web.errors import http_status, www_authenticate
from twogate.web.headers import security_headers
from twogate.web.peer import peer_address


def session_routes(declare: DeclareTask, public_url: str, scopes: frozenset[str]) -> list[Route]:
    """The route, for the control plane's application."""
    base = {**security_headers(public_url), "Cache-Control": "no-store"}

    async def create(request: Request) -> Response:
        address = peer_address(request.scope)
        try:
            session = await declare.respond(dict(request.headers), lambda: _read(request), address)
        except GateError as error:
            headers = dict(base)
            challenge = www_authenticate(error.code, metadata_url(public_url, SESSIONS_PATH), scopes)
            if challenge is not None:
                headers["WWW-Authenticate"] = challenge
            if error.data is not None and NONCE in error.data:
                headers["DPoP-Nonce"] = str(error.data[NONCE])
            body = encode_error(None, error.code, error.data)
            return Response(body, http_status(error.code), headers, "application/json")
        answer = {
            "session": session.id,
            "task": session.task,
            "created_at": session.created_at,
            "deadline": session.deadline,
        }
        return Response(msgspec.json.encode(answer), 200, base, "application/json")

    return [Route(SESSIONS_PATH, create, methods=["POST"])]


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise GateError(ErrorCode.TOO_LARGE, f"a body of more than {MAX_BODY} bytes")
    return bytes(body)
