"""Access tokens, metadata and resources as pure values."""

from __future__ import annotations

import pytest

from twogate.core.jose.jwt import UnverifiedJwt
from twogate.core.oauth.access_token import AccessTokenGrant, join_signature, signing_input
from twogate.core.oauth.client_assertion import verify_client_assertion
from twogate.core.oauth.metadata import ServerFaces, authorization_server_metadata
from twogate.core.oauth.resource import metadata_url, resource_metadata, tenant_resources

ISSUER = "https://mcp.example.com"


def test_the_signing_input_is_the_one_of_rfc_7515() -> None:
    signed = signing_input({"iss": "joe"}, algorithm="ES256", kid="k", typ="at+jwt")
    assert signed == b"eyJhbGciOiJFUzI1NiIsImtpZCI6ImsiLCJ0eXAiOiJhdCtqd3QifQ.eyJpc3MiOiJqb2UifQ"
    assert join_signature(signed, b"\xff\xfe") == signed.decode() + ".__4"


def test_a_token_without_scopes_has_no_scope_claim() -> None:
    grant = AccessTokenGrant(
        issuer=ISSUER, client_id="c", tenant="t", resource="r", scopes=(), issued_at=100, lifetime=300, jti="j"
    )
    assert grant.claims == {
        "iss": ISSUER,
        "sub": "c",
        "client_id": "c",
        "aud": "r",
        "iat": 100,
        "nbf": 100,
        "exp": 400,
        "jti": "j",
        "tenant": "t",
    }


def test_lists_without_members_are_left_out_of_the_documents() -> None:
    assert "scopes_supported" not in authorization_server_metadata(ISSUER, [], ServerFaces())
    assert "scopes_supported" not in resource_metadata("r", [ISSUER])


def test_a_resource_that_names_no_authorization_server_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one"):
        resource_metadata("r", [])


def test_an_assertion_for_nobody_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="somebody"):
        verify_client_assertion(UnverifiedJwt("a.b.c", "ES256", None, None, None), "c", (), frozenset(), 0)


def test_the_well_known_part_goes_before_the_path() -> None:
    # RFC 9728 section 3.1
    assert metadata_url("https://resource.example.com", "/resource1") == (
        "https://resource.example.com/.well-known/oauth-protected-resource/resource1"
    )
    assert metadata_url(ISSUER, "") == f"{ISSUER}/.well-known/oauth-protected-resource"
    assert metadata_url(f"{ISSUER}:8443", "/mcp/a") == f"{ISSUER}:8443/.well-known/oauth-protected-resource/mcp/a"


def test_a_tenant_has_its_servers_and_the_sessions_resource() -> None:
    assert tenant_resources(ISSUER, {"acme": ["files"], "empty": []}) == {
        "acme": {f"{ISSUER}/mcp/files", f"{ISSUER}/sessions"},
        "empty": {f"{ISSUER}/sessions"},
    }
