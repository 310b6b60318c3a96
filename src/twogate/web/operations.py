"""`POST /operations/tokens` over HTTP."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import ErrorCode, GateError
from twogate.core.message import encode_error
from twogate.core.oauth.resource import OPERATIONS_PATH, TOKENS_PATH, metadata_url
from twogate.flows.gateway.possession import NONCE
from twogate.flows.operations.mint import MAX_BODY, MintToken
from twogate.web.authserver import OnlyMethods, read_capped
from twogate.web.errors import http_status, www_authenticate
from twogate.web.headers import security_headers
from twogate.web.peer import peer_address, peer_certificate


def operation_routes(mint: MintToken, public_url: str) -> list[Route]:
    """The route, for the control plane's application."""
    base = {**security_headers(public_url), "Cache-Control": "no-store"}

    async def issue(request: Request) -> Response:
        async def body() -> bytes:
            raw = await read_capped(request, MAX_BODY)
            if len(raw) > MAX_BODY:
                raise GateError(ErrorCode.TOO_LARGE, f"a body of more than {MAX_BODY} bytes")
            return raw

        try:
            if request.url.query:
                # RFC 9700 section 4.3.2: no tokens in the query; this endpoint has no other use for one.
                raise GateError(ErrorCode.REQUEST_MALFORMED, "a query string")
            minted = await mint.respond(
                dict(request.headers),
                body,
                public_url + TOKENS_PATH,
                peer_address(request.scope),
                peer_certificate(request.scope),
            )
        except GateError as error:
            headers = dict(base)
            challenge = www_authenticate(error.code, metadata_url(public_url, OPERATIONS_PATH))
            if challenge is not None:
                headers["WWW-Authenticate"] = challenge
            if error.data is not None and NONCE in error.data:
                headers["DPoP-Nonce"] = str(error.data[NONCE])
            refusal = encode_error(None, error.code, error.data)
            return Response(refusal, http_status(error.code), headers, "application/json")
        answer = {"operation_token": minted.token, "expires_in": minted.expires_in, "digest": minted.digest}
        return Response(msgspec.json.encode(answer), 200, base, "application/json")

    return [Route(TOKENS_PATH, OnlyMethods(issue, base, "POST"))]
