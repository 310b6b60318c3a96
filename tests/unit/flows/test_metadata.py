"""The authorization server's metadata: complete, true, and readable by the clients that look for it (RFC 8414)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from mcp.client.auth.utils import build_oauth_authorization_server_metadata_discovery_urls as discovery_urls
from mcp.shared.auth import OAuthMetadata

from harness.stack import Stack, free_port, running, settings_for
from twogate.core.errors import GateError
from twogate.core.oauth.authorization_details import parse_details
from twogate.core.oauth.authorize_request import Prompt
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.metadata import (
    DETAILS_TYPE,
    ServerFaces,
    authorization_server_metadata,
    openid_metadata,
)

ISSUER = "https://mcp.example.com"
RFC8414 = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"
EVERYTHING = ServerFaces(
    grants=frozenset(GrantType),
    pushed_requests=True,
    introspection=True,
    revocation=True,
    registration=True,
    client_documents=True,
    identity_assertions=True,
    prompts=tuple(Prompt),
)
METHODS = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
ALGORITHMS = ["ES256", "RS256", "PS256", "EdDSA"]


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncGenerator[Stack]:
    settings = settings_for(tmp_path, free_port(), {"files": {"url": "http://127.0.0.1:9/mcp"}}, None)
    async with running(tmp_path, settings) as stack:
        yield stack


def test_a_server_with_everything_says_so() -> None:
    assert authorization_server_metadata(ISSUER, ["b", "a"], EVERYTHING) == {
        "issuer": ISSUER,
        "authorization_endpoint": f"{ISSUER}/authorize",
        "token_endpoint": f"{ISSUER}/token",
        "jwks_uri": f"{ISSUER}/.well-known/jwks.json",
        "scopes_supported": ["a", "b"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": sorted(GrantType),
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "prompt_values_supported": ["none", "login", "consent", "select_account"],
        "token_endpoint_auth_methods_supported": METHODS,
        "token_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "introspection_endpoint": f"{ISSUER}/introspect",
        "introspection_endpoint_auth_methods_supported": METHODS[1:],
        "introspection_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "revocation_endpoint": f"{ISSUER}/revoke",
        "revocation_endpoint_auth_methods_supported": METHODS,
        "revocation_endpoint_auth_signing_alg_values_supported": ALGORITHMS,
        "pushed_authorization_request_endpoint": f"{ISSUER}/par",
        "require_pushed_authorization_requests": False,
        "device_authorization_endpoint": f"{ISSUER}/device_authorization",
        "registration_endpoint": f"{ISSUER}/register",
        "client_id_metadata_document_supported": True,
        "authorization_grant_profiles_supported": ["urn:ietf:params:oauth:grant-profile:id-jag"],
        "authorization_details_types_supported": ["mcp_session"],
        "dpop_signing_alg_values_supported": ["ES256", "Ed25519", "EdDSA", "RS256", "PS256"],
    }


def test_a_server_with_nothing_advertises_nothing() -> None:
    document = authorization_server_metadata(ISSUER, [], ServerFaces())
    assert document.keys() == {
        "issuer", "authorization_endpoint", "token_endpoint", "jwks_uri", "response_types_supported",
        "grant_types_supported", "token_endpoint_auth_methods_supported",
        "token_endpoint_auth_signing_alg_values_supported", "dpop_signing_alg_values_supported",
        "authorization_details_types_supported",
    }  # fmt: skip
    assert (document["response_types_supported"], document["grant_types_supported"]) == ([], [])


@pytest.mark.parametrize(
    ("face", "members"),
    [
        ("pushed_requests", {"pushed_authorization_request_endpoint", "require_pushed_authorization_requests"}),
        ("registration", {"registration_endpoint"}),
        ("client_documents", {"client_id_metadata_document_supported"}),
        ("identity_assertions", {"authorization_grant_profiles_supported"}),
        ("introspection", {
            "introspection_endpoint", "introspection_endpoint_auth_methods_supported",
            "introspection_endpoint_auth_signing_alg_values_supported",
        }),
        ("revocation", {
            "revocation_endpoint", "revocation_endpoint_auth_methods_supported",
            "revocation_endpoint_auth_signing_alg_values_supported",
        }),
    ],
)  # fmt: skip
def test_what_is_not_there_is_not_advertised(face: str, members: set[str]) -> None:
    without = authorization_server_metadata(ISSUER, ["a"], msgspec.structs.replace(EVERYTHING, **{face: False}))
    assert authorization_server_metadata(ISSUER, ["a"], EVERYTHING).keys() - without.keys() == members


def test_the_openid_document_is_the_same_and_denies_what_a_provider_would_have() -> None:
    document = openid_metadata(ISSUER, ["a"], EVERYTHING)
    same = authorization_server_metadata(ISSUER, ["a"], EVERYTHING)
    assert {name: document[name] for name in same} == same
    assert {name: document[name] for name in document.keys() - same.keys()} == {
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [],
        "claims_parameter_supported": False,
        "request_parameter_supported": False,
        "request_uri_parameter_supported": False,
    }
    assert "userinfo_endpoint" not in document


def test_the_type_of_details_is_the_one_that_requests_may_have() -> None:
    assert parse_details(f'[{{"type":"{DETAILS_TYPE}","task":"report"}}]') == "report"
    with pytest.raises(GateError):
        parse_details('[{"type":"other","task":"report"}]')


async def test_every_advertised_address_of_the_whole_server_is_served(stack: Stack) -> None:
    document: dict[str, Any] = (await stack.http.get(stack.url + RFC8414)).json()
    addresses = {name: value for name, value in document.items() if name.endswith(("_endpoint", "_uri"))}
    assert addresses.keys() == {
        "authorization_endpoint", "token_endpoint", "jwks_uri", "pushed_authorization_request_endpoint",
        "device_authorization_endpoint", "introspection_endpoint", "revocation_endpoint",
    }  # fmt: skip
    for address in addresses.values():
        assert address.startswith(stack.url + "/")
        assert (await stack.http.get(address)).status_code != 404
    assert (await stack.http.post(f"{stack.url}/register", json={})).status_code == 404


async def test_each_advertised_grant_is_known_and_no_other(stack: Stack) -> None:
    document = (await stack.http.get(stack.url + RFC8414)).json()
    for grant in GrantType:
        answer = await stack.http.post(f"{stack.url}/token", data={"grant_type": grant.value})
        assert (answer.json()["error"] == "unsupported_grant_type") == (grant not in document["grant_types_supported"])


@pytest.mark.parametrize("where", [RFC8414, OPENID])
async def test_the_official_clients_find_it_where_they_look_and_read_it(stack: Stack, where: str) -> None:
    assert stack.url + where in discovery_urls(stack.url, stack.resource())
    answer = await stack.http.get(stack.url + where, headers={"origin": "https://app.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")
    assert str(OAuthMetadata.model_validate_json(answer.content).issuer) == stack.url
    preflight = await stack.http.options(stack.url + where, headers={"origin": "https://app.example"})
    assert preflight.status_code == 204


async def test_no_other_issuer_is_found_here(stack: Stack) -> None:
    """A client that asks for the metadata of `/mcp/files` must be told that this is no issuer, and goes on."""
    for url in discovery_urls(stack.resource(), stack.resource()):
        assert (await stack.http.get(url)).status_code == 404


async def test_without_the_embedded_server_there_is_no_document(stack: Stack) -> None:
    settings = msgspec.json.decode((stack.directory / "twogate.yaml").read_bytes())
    settings["embedded"] = {"enabled": False}
    settings["issuers"] = [
        {
            "issuer": "https://login.example.com", "algorithms": ["RS256"], "tenants": ["acme"],
            "claims": {"agent": "/azp"},
        }
    ]  # fmt: skip
    stack.adopt(settings)
    for where in (RFC8414, OPENID):
        assert (await stack.http.get(stack.url + where)).status_code == 404
    for path in ("/introspect", "/revoke", "/token"):
        assert (await stack.http.post(stack.url + path, data={"token": "x"})).status_code == 404
