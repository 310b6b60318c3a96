"""The authorization server's endpoints as Starlette routes: HTTP to flow and back, nothing decided here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from twogate.core.errors import ErrorCode
from twogate.core.oauth.metadata import AUTHORIZE_PATH, TOKEN_PATH
from twogate.core.oauth.token_request import MAX_BODY
from twogate.flows.authserver.token import TokenEndpoint, TokenHttpRequest, TokenIssued
from twogate.web.errors import oauth_error
from twogate.web.headers import security_headers
from twogate.web.peer import peer_address

JSON: Final = "application/json"

Answer = Callable[[Request], Awaitable[Response]]


def authserver_routes(endpoint: TokenEndpoint) -> list[Route]:
    """`POST /token`, and `/authorize`, which refuses: no grant that uses it exists yet."""
    base = security_headers(endpoint.settings.issuer)

    async def token(request: Request) -> Response:
        answer = await endpoint.respond(
            TokenHttpRequest(
                content_type=tuple(request.headers.getlist("content-type")),
                authorization=tuple(request.headers.getlist("authorization")),
                query=request.url.query,
                body=await _read_capped(request),
                address=peer_address(request.scope),
            )
        )
        if not isinstance(answer, TokenIssued):
            return error_response(answer.code, base, with_header=answer.with_header)
        body: dict[str, str | int] = {
            "access_token": answer.access_token,
            "token_type": "Bearer",
            "expires_in": answer.expires_in,
        }
        if answer.scope is not None:
            body["scope"] = answer.scope
        headers = {**base, "Cache-Control": "no-store"}
        return Response(msgspec.json.encode(body), headers=headers, media_type=JSON)

    async def authorize(request: Request) -> Response:  # noqa: ARG001 - nothing in a request could change the answer
        # RFC 6749 section 4.1.2.1: `unauthorized_client`; never redirected, for no redirect URI is registered.
        return error_response(ErrorCode.CLIENT_UNAUTHORIZED, base)

    return [
        Route(TOKEN_PATH, OnlyMethods(token, base, "POST")),
        Route(AUTHORIZE_PATH, OnlyMethods(authorize, base, "GET", "POST")),
    ]


class OnlyMethods:
    """An ASGI endpoint for some HTTP methods; the others get the error table's answer with every header."""

    def __init__(self, answer: Answer, base: Mapping[str, str], *methods: str) -> None:
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


def error_response(code: ErrorCode, base: Mapping[str, str], *, with_header: bool = False) -> Response:
    """A refusal as an OAuth JSON error."""
    error = oauth_error(code, with_header=with_header)
    return Response(error.body, error.status, {**base, **error.headers}, media_type=JSON)


async def _read_capped(request: Request) -> bytes:
    # One byte over the cap is enough to be refused by; the rest is never held.
    body = bytearray()
    async for chunk in request.stream():
        body += chunk[: MAX_BODY + 1 - len(body)]
        if len(body) > MAX_BODY:
            break
    return bytes(body)
