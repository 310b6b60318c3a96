"""What the authorization server says of itself (RFC 8414). Nothing is advertised that does not exist."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from twogate.core.oauth.client_assertion import ALGORITHMS
from twogate.core.oauth.client_auth import AuthMethod
from twogate.core.oauth.grant_type import GrantType

AUTHORIZE_PATH: Final = "/authorize"
TOKEN_PATH: Final = "/token"
JWKS_PATH: Final = "/.well-known/jwks.json"
WELL_KNOWN: Final = "/.well-known/oauth-authorization-server"


def token_endpoint(issuer: str) -> str:
    """The address of the token endpoint, which is also a name that client assertions may be made for."""
    return issuer + TOKEN_PATH


def authorization_server_metadata(
    issuer: str, scopes: Collection[str], grants: Collection[GrantType]
) -> dict[str, object]:
    """The metadata document of this issuer (RFC 8414 section 2).

    `authorization_endpoint` is there although no grant uses it: clients in the field, the MCP SDK's among them, cannot
    read a document without it. The endpoint exists and refuses; the empty list of response types says so.
    """
    document: dict[str, object] = {
        "issuer": issuer,
        "authorization_endpoint": issuer + AUTHORIZE_PATH,
        "token_endpoint": token_endpoint(issuer),
        "jwks_uri": issuer + JWKS_PATH,
        "response_types_supported": [],
        "grant_types_supported": sorted(grants),
        "token_endpoint_auth_methods_supported": [method.value for method in AuthMethod],
        "token_endpoint_auth_signing_alg_values_supported": [algorithm.value for algorithm in ALGORITHMS],
    }
    # A parameter without values is left out (RFC 8414 section 3.2), but for those that section 2 requires.
    if scopes:
        document["scopes_supported"] = sorted(scopes)
    return document
