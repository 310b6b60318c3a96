"""The authorization server's form endpoints as Starlette routes: HTTP to flow and back, nothing decided here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from twogate.core.errors import ErrorCode
from twogate.core.oauth.token_request import MAX_BODY
from twogate.flows.authserver.form import Answer, FormRefused, FormRequest
from twogate.web.errors import oauth_error
from twogate.web.headers import security_headers
from twogate.web.peer import peer_address

JSON: Final = "application/json"
DPOP_NONCE: Final = "DPoP-Nonce"

# Browser clients may use these endpoints; cookies never matter here, so no credentials are allowed along.
_CORS: Final = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": f"{DPOP_NONCE}, WWW-Authenticate"}
_PREFLIGHT: Final = {
    **_CORS,
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, DPoP, MCP-Protocol-Version",
    "Access-Control-Max-Age": "86400",
}

Respond = Callable[[Request], Awaitable[Response]]
Serve = Callable[[FormRequest], Awaitable[Answer]]


def form_route(path: str, serve: Serve, public_url: str, *, cors: bool = False) -> Route:
    """A POST endpoint for forms. `cors` lets browser clients of any origin use it (DESIGN decision 21)."""
    base = {**security_headers(public_url), **(_CORS if cors else {})}

    async def post(request: Request) -> Response:
        if request.method == "OPTIONS":
            return Response(status_code=204, headers={**base, **_PREFLIGHT})
        answer = await serve(
            FormRequest(
                content_type=tuple(request.headers.getlist("content-type")),
                authorization=tuple(request.headers.getlist("authorization")),
                query=request.url.query,
                body=await read_capped(request, MAX_BODY),
                address=peer_address(request.scope),
                path=path,
                proofs=tuple(request.headers.getlist("dpop")),
            )
        )
        headers = {**base, "Cache-Control": "no-store"}
        if answer.nonce is not None:
            headers[DPOP_NONCE] = answer.nonce
        if isinstance(answer, FormRefused):
            return error_response(answer.code, headers, with_header=answer.with_header, description=answer.description)
        return Response(msgspec.json.encode(answer.body), answer.status, headers, JSON)

    methods = ("POST", "OPTIONS") if cors else ("POST",)
    return Route(path, OnlyMethods(post, base, *methods))


class OnlyMethods:
    """An ASGI endpoint for some HTTP methods; the others get the error table's answer with every header."""

    def __init__(self, answer: Respond, base: Mapping[str, str], *methods: str) -> None:
        self._answer = answer
        self._base = base
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        request = Request(scope, receive)
        response: ASGIApp
        if request.method in self._methods:
            try:
                response = await self._answer(request)
            except ClientDisconnect:
                return  # Nobody is left to answer, and nothing was decided: the body never arrived.
        else:
            response = error_response(ErrorCode.METHOD_NOT_ALLOWED, {**self._base, "Allow": ", ".join(self._methods)})
        await response(scope, receive, send)


def error_response(
    code: ErrorCode, base: Mapping[str, str], *, with_header: bool = False, description: str | None = None
) -> Response:
    """A refusal as an OAuth JSON error; `description` instead of the code's own text."""
    error = oauth_error(code, with_header=with_header, description=description)
    return Response(error.body, error.status, {**base, **error.headers}, media_type=JSON)


async def read_capped(request: Request, max_bytes: int) -> bytes:
    """The body, cut one byte after its cap: enough to be refused by, and the rest is never held."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk[: max_bytes + 1 - len(body)]
        if len(body) > max_bytes:
            break
    return bytes(body)
