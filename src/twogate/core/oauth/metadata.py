"""What the authorization server says of itself (RFC 8414). Nothing is advertised that does not exist."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from twogate.core.jose import dpop
from twogate.core.oauth.client_assertion import ALGORITHMS
from twogate.core.oauth.client_auth import AuthMethod
from twogate.core.oauth.grant_type import GrantType

AUTHORIZE_PATH: Final = "/authorize"
TOKEN_PATH: Final = "/token"
PAR_PATH: Final = "/par"
DEVICE_PATH: Final = "/device_authorization"
INTROSPECT_PATH: Final = "/introspect"
REVOKE_PATH: Final = "/revoke"
REGISTER_PATH: Final = "/register"
JWKS_PATH: Final = "/.well-known/jwks.json"

WELL_KNOWN: Final = "/.well-known/oauth-authorization-server"
OPENID_WELL_KNOWN: Final = "/.well-known/openid-configuration"

DETAILS_TYPE: Final = "mcp_session"
"""The one type of `authorization_details` (`authorization_details.McpSession`)."""

ID_JAG_PROFILE: Final = "urn:ietf:params:oauth:grant-profile:id-jag"


class ServerFaces(msgspec.Struct, frozen=True, kw_only=True):
    """What is there of the authorization server. The composition sets each beside the route or setting it is about.

    `pushed_requests`, `introspection`, `revocation` and `registration` are endpoints, `client_documents` says that
    client ids may be addresses of documents, `identity_assertions` that ID-JAGs are taken. `prompts` are the values of
    `prompt` that the authorization endpoint knows. The other endpoints follow from the grants.
    """

    grants: frozenset[GrantType] = frozenset()
    pushed_requests: bool = False
    introspection: bool = False
    revocation: bool = False
    registration: bool = False
    client_documents: bool = False
    identity_assertions: bool = False
    prompts: tuple[str, ...] = ()


def token_endpoint(issuer: str) -> str:
    """The address of the token endpoint, which is also a name that client assertions may be made for."""
    return issuer + TOKEN_PATH


def authorization_server_metadata(issuer: str, scopes: Collection[str], faces: ServerFaces) -> dict[str, object]:
    """The metadata document of this issuer (RFC 8414 section 2).

    `authorization_endpoint` is there even if no grant uses it: clients in the field, the MCP SDK's among them, cannot
    read a document without it. The empty list of response types then says that it is of no use.
    """
    codes = GrantType.AUTHORIZATION_CODE in faces.grants
    methods = [method.value for method in AuthMethod]
    algorithms = [algorithm.value for algorithm in ALGORITHMS]
    document: dict[str, object] = {
        "issuer": issuer,
        "authorization_endpoint": issuer + AUTHORIZE_PATH,
        "token_endpoint": token_endpoint(issuer),
        "jwks_uri": issuer + JWKS_PATH,
        "response_types_supported": ["code"] if codes else [],
        "grant_types_supported": sorted(faces.grants),
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        # RFC 9449 section 5.1, RFC 9396 section 10.
        "dpop_signing_alg_values_supported": [algorithm.value for algorithm in dpop.ALGORITHMS],
        "authorization_details_types_supported": [DETAILS_TYPE],
    }
    # A parameter without values is left out (RFC 8414 section 3.2), but for those that section 2 requires.
    if scopes:
        document["scopes_supported"] = sorted(scopes)
    if codes:
        document |= {
            "response_modes_supported": ["query"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,  # RFC 9207 section 3
        }
        if faces.prompts:
            document["prompt_values_supported"] = list(faces.prompts)
    return document | _endpoints(issuer, faces, methods, algorithms)


def openid_metadata(issuer: str, scopes: Collection[str], faces: ServerFaces) -> dict[str, object]:
    """The same for clients that look under OpenID Connect Discovery's address.

    This is no OpenID provider, and the document says so as far as its form allows: of what Discovery section 3
    requires, there is no algorithm for ID tokens, because none are issued. `sub` is the same for every client. The
    parameters that a client would take for supported if they were left out are denied.
    """
    return {
        **authorization_server_metadata(issuer, scopes, faces),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [],
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }


def _endpoints(issuer: str, faces: ServerFaces, methods: list[str], algorithms: list[str]) -> dict[str, object]:
    there: dict[str, object] = {}
    if faces.pushed_requests:
        # RFC 9126 section 5. Clients authenticate there as they do at the token endpoint.
        there["pushed_authorization_request_endpoint"] = issuer + PAR_PATH
        there["require_pushed_authorization_requests"] = False
    if GrantType.DEVICE_CODE in faces.grants:
        there["device_authorization_endpoint"] = issuer + DEVICE_PATH  # RFC 8628 section 4
    if faces.introspection:
        # Callers authenticate.
        proving = [method for method in methods if method != AuthMethod.NONE]
        there |= _endpoint("introspection", issuer + INTROSPECT_PATH, proving, algorithms)
    if faces.revocation:
        there |= _endpoint("revocation", issuer + REVOKE_PATH, methods, algorithms)
    if faces.registration:
        there["registration_endpoint"] = issuer + REGISTER_PATH  # RFC 7591 section 3
    if faces.client_documents:
        there["client_id_metadata_document_supported"] = True
    if faces.identity_assertions:
        there["authorization_grant_profiles_supported"] = [ID_JAG_PROFILE]
    return there


def _endpoint(name: str, address: str, methods: list[str], algorithms: list[str]) -> dict[str, object]:
    return {
        f"{name}_endpoint": address,
        f"{name}_endpoint_auth_methods_supported": methods,
        f"{name}_endpoint_auth_signing_alg_values_supported": algorithms,
    }
