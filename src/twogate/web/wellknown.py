"""The public documents under `/.well-known/`, readable by anybody from anywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from twogate.core.errors import ErrorCode
from twogate.core.oauth import resource as protected_resource
from twogate.core.oauth.metadata import JWKS_PATH, OPENID_WELL_KNOWN, WELL_KNOWN
from twogate.flows.authserver.jwks import MAX_AGE
from twogate.flows.authserver.metadata import PublicDocuments
from twogate.web.authserver import JSON, OnlyMethods, error_response
from twogate.web.headers import security_headers

# They are public and hold no state, so any page may read them; cookies never matter. Browser clients of MCP send the
# version header along, which makes browsers ask first.
_CORS: Final = {"Access-Control-Allow-Origin": "*"}
_PREFLIGHT: Final = {
    **_CORS,
    "Access-Control-Allow-Methods": "GET",
    "Access-Control-Allow-Headers": "MCP-Protocol-Version",
    "Access-Control-Max-Age": "86400",
}


def wellknown_routes(public_url: str, documents: Callable[[], PublicDocuments]) -> list[Route]:
    """Routes for the issuer's metadata, its keys, and the metadata of each resource. `documents` gives the current."""
    base = security_headers(public_url)

    def route(path: str, find: Callable[[Request], bytes | None]) -> Route:
        async def answer(request: Request) -> Response:
            if request.method == "OPTIONS":
                return Response(status_code=204, headers={**base, **_PREFLIGHT})
            document = find(request)
            if document is None:
                return error_response(ErrorCode.NOT_FOUND, {**base, **_CORS})
            headers = {**base, **_CORS, "Cache-Control": f"public, max-age={MAX_AGE}"}
            return Response(document, headers=headers, media_type=JSON)

        return Route(path, OnlyMethods(answer, {**base, **_CORS}, "GET", "HEAD", "OPTIONS"))

    return [
        route(WELL_KNOWN, lambda _: documents().authorization_server),
        route(OPENID_WELL_KNOWN, lambda _: documents().openid),
        route(JWKS_PATH, lambda _: documents().jwks),
        route(
            protected_resource.WELL_KNOWN + "/{path:path}",
            lambda request: documents().resources.get("/" + request.path_params["path"]),
        ),
    ]
