"""The authorization server over HTTP: the real routes and store; tokens verified by PyJWT, which did not make them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc.jwk import ECKey
from mcp.client.auth import OAuthClientProvider
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken, ProtectedResourceMetadata
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tokenlab import FILES, ISSUER, ROBOT, SECRET, Lab, PrivateKey, basic, open_lab, public_jwks
from twogate.core.errors import ErrorCode
from twogate.core.jose.dpop import ALGORITHMS
from twogate.core.oauth.resource import metadata_url
from twogate.core.oauth.token_request import MAX_BODY
from twogate.web.errors import www_authenticate
from twogate.web.headers import security_headers


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncGenerator[Lab]:
    async with open_lab(tmp_path) as running:
        yield running


async def verified(lab: Lab, token: str, audience: str = FILES) -> dict[str, object]:
    """The claims, if an independent library verifies the token by the published keys."""
    keys = jwt.PyJWKSet.from_dict((await lab.http.get("/.well-known/jwks.json")).json())
    header = jwt.get_unverified_header(token)
    assert header.keys() == {"alg", "kid", "typ"}
    assert header["typ"] == "at+jwt"
    return jwt.decode(token, keys[header["kid"]], algorithms=["ES256"], audience=audience, issuer=ISSUER)


class TestTokens:
    async def test_a_secret_by_basic_gets_a_token_that_an_independent_library_verifies(self, lab: Lab) -> None:
        response = await lab.with_secret(scope="reports")
        assert response.status_code == 200
        answer = response.json()
        assert answer.keys() == {"access_token", "token_type", "expires_in", "scope"}
        assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("Bearer", 300, "reports")
        claims = await verified(lab, answer["access_token"])
        now = lab.clock.now()
        assert len(str(claims.pop("jti"))) == 22
        assert claims == {
            "iss": ISSUER,
            "sub": "reporter",
            "client_id": "reporter",
            "aud": FILES,
            "iat": now,
            "nbf": now,
            "exp": now + 300,
            "scope": "reports",
            "tenant": "acme",
        }

    async def test_a_secret_in_the_body_gets_a_token_without_scope(self, lab: Lab) -> None:
        response = await lab.post({"client_id": "reporter", "client_secret": SECRET})
        assert response.status_code == 200
        assert "scope" not in response.json()
        assert "scope" not in await verified(lab, response.json()["access_token"])

    @pytest.mark.parametrize("audience", [ISSUER, f"{ISSUER}/token", [ISSUER]])
    async def test_a_private_key_gets_a_token(self, lab: Lab, audience: object) -> None:
        response = await lab.with_assertion(lab.assertion(aud=audience), client_id="robot")
        assert response.status_code == 200
        assert (await verified(lab, response.json()["access_token"]))["sub"] == "robot"

    @pytest.mark.parametrize("alg", ["RS256", "PS256", "EdDSA"])
    async def test_every_advertised_algorithm_works_with_a_key_made_for_it(self, lab: Lab, alg: str) -> None:
        key: PrivateKey = (
            ed25519.Ed25519PrivateKey.generate() if alg == "EdDSA" else rsa.generate_private_key(65537, 2048)
        )
        await lab.add_client("machine", ROBOT, jwks=public_jwks(key))
        response = await lab.with_assertion(lab.assertion(key=key, alg=alg, iss="machine", sub="machine"))
        assert response.status_code == 200

    @pytest.mark.parametrize("typ", ["JWT", "client-authentication+jwt", None])
    async def test_an_assertion_may_be_of_either_type_or_say_none(self, lab: Lab, typ: str | None) -> None:
        response = await lab.with_assertion(lab.assertion(headers={"typ": typ}))
        assert response.status_code == 200

    async def test_form_encoded_basic_credentials_are_decoded(self, lab: Lab) -> None:
        await lab.add_client("ops: night + day", ROBOT, secret="s:e%c+r e&t=")
        assert (await lab.with_secret(basic("ops: night + day", "s:e%c+r e&t="))).status_code == 200

    async def test_the_sessions_resource_belongs_to_every_tenant(self, lab: Lab) -> None:
        response = await lab.with_secret(resource=f"{ISSUER}/sessions")
        assert (await verified(lab, response.json()["access_token"], f"{ISSUER}/sessions"))[
            "aud"
        ] == f"{ISSUER}/sessions"

    async def test_every_token_has_its_own_identifier(self, lab: Lab) -> None:
        tokens = [(await lab.with_secret()).json()["access_token"] for _ in range(3)]
        assert len({(await verified(lab, token))["jti"] for token in tokens}) == 3

    async def test_the_client_is_noted_as_used(self, lab: Lab) -> None:
        await lab.with_secret()
        client = await lab.clients.get("reporter")
        assert client is not None
        assert client.last_used_at == lab.clock.now()

    async def test_unknown_parameters_and_a_charset_are_ignored(self, lab: Lab) -> None:
        headers = basic("reporter", SECRET) | {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}
        assert (await lab.with_secret(headers, colour="blue")).status_code == 200


class TestAnswers:
    async def test_no_answer_of_the_token_endpoint_may_be_stored(self, lab: Lab) -> None:
        for response in (await lab.with_secret(), await lab.with_secret(basic("reporter", "wrong"))):
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["content-type"] == "application/json"

    async def test_every_answer_carries_the_security_headers(self, lab: Lab) -> None:
        paths = [
            "/token",
            "/introspect",
            "/revoke",
            "/.well-known/jwks.json",
            "/.well-known/oauth-protected-resource/mcp/none",
        ]
        for path in paths:
            for method in ("GET", "DELETE", "POST", "OPTIONS"):
                response = await lab.http.request(method, path)
                for name, value in security_headers(ISSUER).items():
                    assert response.headers[name] == value, (method, path)

    def test_strict_transport_security_is_for_https_alone(self) -> None:
        assert "Strict-Transport-Security" in security_headers("https://mcp.example.com")
        assert "Strict-Transport-Security" not in security_headers("http://127.0.0.1:8080")

    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD"])
    async def test_only_post_is_served_at_the_form_endpoints(self, lab: Lab, method: str) -> None:
        response = await lab.http.request(method, "/token")
        assert (response.status_code, response.headers["allow"]) == (405, "POST, OPTIONS")
        for path in ("/introspect", "/revoke"):
            response = await lab.http.request(method, path)
            assert (response.status_code, response.headers["allow"]) == (405, "POST")

    async def test_a_refusal_is_an_oauth_error_of_two_members(self, lab: Lab) -> None:
        response = await lab.with_secret(grant_type="password")
        assert response.status_code == 400
        assert response.json() == {
            "error": "unsupported_grant_type",
            "error_description": "The grant type is not supported.",
        }
        assert lab.audit.last.reason == ErrorCode.GRANT_UNSUPPORTED

    async def test_an_unauthenticated_client_is_challenged_only_by_the_scheme_it_used(self, lab: Lab) -> None:
        by_header = await lab.with_secret(basic("reporter", "wrong"))
        assert (by_header.status_code, by_header.headers["www-authenticate"]) == (401, 'Basic realm="twogate"')
        by_body = await lab.post({"client_id": "reporter", "client_secret": "wrong"})
        assert by_body.status_code == 401
        assert "www-authenticate" not in by_body.headers

    async def test_a_long_body_is_refused_without_being_read_to_its_end(self, lab: Lab) -> None:
        sent = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal sent
            yield b"grant_type=client_credentials&padding="
            for _ in range(10_000):
                sent += 1024
                yield b"a" * 1024

        received: list[object] = []
        chunks = aiter(endless())

        async def receive() -> dict[str, object]:
            return {"type": "http.request", "body": await anext(chunks), "more_body": True}

        async def send(message: object) -> None:
            received.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/token",
            "query_string": b"",
            "headers": [(b"content-type", b"application/x-www-form-urlencoded")],
        }
        await lab.app(scope, receive, send)
        assert received[0]["status"] == 413  # type: ignore[index]  # the same
        assert sent <= MAX_BODY + 1024
        assert lab.audit.last.reason == ErrorCode.TOO_LARGE

    async def test_a_client_that_hangs_up_is_not_answered(self, lab: Lab) -> None:
        received: list[object] = []

        async def receive() -> dict[str, object]:
            return {"type": "http.disconnect"}

        async def send(message: object) -> None:
            received.append(message)

        scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/token", "query_string": b"", "headers": []}
        await lab.app(scope, receive, send)
        assert received == []


class TestDocuments:
    async def test_the_keys_are_public_named_by_thumbprint_and_cached_for_five_minutes(self, lab: Lab) -> None:
        response = await lab.http.get("/.well-known/jwks.json")
        assert response.headers["cache-control"] == "public, max-age=300"
        [jwk] = response.json()["keys"]
        assert jwk.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}
        assert (jwk["use"], jwk["alg"]) == ("sig", "ES256")
        assert jwk["kid"] == ECKey.import_key(jwk).thumbprint()

    async def test_each_server_has_its_own_resource_metadata(self, lab: Lab) -> None:
        address = metadata_url(ISSUER, "/mcp/files")
        assert urlsplit(address).path == "/.well-known/oauth-protected-resource/mcp/files"
        response = await lab.http.get(address)
        assert response.json() == {
            "resource": FILES,
            "authorization_servers": [ISSUER],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": [algorithm.value for algorithm in ALGORITHMS],
            "scopes_supported": ["admin", "reports"],
        }
        assert str(ProtectedResourceMetadata.model_validate_json(response.content).resource) == FILES

    @pytest.mark.parametrize("path", ["/mcp/unknown", "/mcp", "", "/", "/mcp/files/", "/mcp/files/x", "/mcp/../mcp/x"])
    async def test_what_is_no_resource_has_no_metadata(self, lab: Lab, path: str) -> None:
        assert (await lab.http.get("/.well-known/oauth-protected-resource" + path)).status_code == 404

    async def test_any_web_page_may_read_the_documents_and_ask_for_tokens_without_cookies(self, lab: Lab) -> None:
        origin = {"Origin": "https://app.example"}
        for path in (
            "oauth-authorization-server",
            "openid-configuration",
            "jwks.json",
            "oauth-protected-resource/mcp/files",
        ):
            response = await lab.http.get(f"/.well-known/{path}", headers=origin)
            assert response.headers["access-control-allow-origin"] == "*"
            preflight = await lab.http.options(f"/.well-known/{path}", headers=origin)
            assert preflight.status_code == 204
            assert preflight.headers["access-control-allow-headers"] == "MCP-Protocol-Version"
        preflight = await lab.http.options("/token", headers=origin)
        assert preflight.headers["access-control-allow-headers"].split(", ")[:3] == [
            "Authorization",
            "Content-Type",
            "DPoP",
        ]
        for response in (preflight, await lab.with_secret(), await lab.with_secret(grant_type="password")):
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers
        for path in ("/introspect", "/revoke"):
            assert "access-control-allow-origin" not in (await lab.http.post(path, headers=origin)).headers


class MemoryStorage:
    """Where the SDK's client keeps what it got."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        raise AssertionError("a registered client registers nothing")


def with_secret(method: str) -> OAuthClientProvider:
    return ClientCredentialsOAuthProvider(
        FILES,
        MemoryStorage(),
        "reporter",
        SECRET,
        "client_secret_basic" if method == "basic" else "client_secret_post",
        "reports",
        ISSUER,
    )


def with_key(key: ec.EllipticCurvePrivateKey) -> OAuthClientProvider:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    parameters = SignedJWTParameters(issuer="robot", subject="robot", signing_key=pem, signing_algorithm="ES256")
    return PrivateKeyJWTOAuthProvider(
        FILES, MemoryStorage(), "robot", parameters.create_assertion_provider(), "reports", ISSUER
    )


class TestTheMcpSdksOwnClients:
    """The Python SDK's clients find the server by a resource's 401 and get in, with nothing of ours between."""

    @pytest.mark.parametrize("kind", ["basic", "post", "key"])
    async def test_they_discover_authenticate_and_are_let_in(self, lab: Lab, kind: str) -> None:
        async def resource(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme != "Bearer":
                url = metadata_url(ISSUER, "/mcp/files")
                challenge = www_authenticate(ErrorCode.CREDENTIAL_MISSING, url, ["reports"])
                assert challenge is not None
                return Response(status_code=401, headers={"WWW-Authenticate": challenge})
            return PlainTextResponse(json.dumps(await verified(lab, token)))

        app = Starlette(routes=[Route("/mcp/files", resource), *lab.app.routes])
        provider = with_key(lab.key) if kind == "key" else with_secret(kind)
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, auth=provider) as client:
            response = await client.get(FILES)
        assert response.status_code == 200
        claims = response.json()
        assert (claims["sub"], claims["aud"], claims["scope"]) == (
            "robot" if kind == "key" else "reporter",
            FILES,
            "reports",
        )
