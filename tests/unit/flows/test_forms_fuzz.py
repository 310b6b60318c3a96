"""Whatever strangers and clients post to the authorization server, they get an OAuth answer: never a 500 or a trace.

The whole composition answers, on a real store, without a socket in between: any bytes arrive as they are.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpoplab import Prover
from harness.issuer import new_key, sign
from harness.stack import settings_for
from tokenlab import SECRET, basic
from twogate.app import Application, build_app
from twogate.config.file import load_settings
from twogate.core.oauth.client_auth import ASSERTION_TYPE
from twogate.core.oauth.grant_type import GrantType
from twogate.state import open_state

PORT = 4711
ISSUER = f"http://localhost:{PORT}"
FORM = b"application/x-www-form-urlencoded"
FORMS = ("/token", "/par", "/introspect", "/revoke", "/device_authorization")
PATHS = (*FORMS, "/register", "/register/unknown")
CALLBACK = "https://app.example/callback"
LOGIN = "https://login.example.com"
PLATFORM = "https://platform.example.com"
PROVIDER = "https://idp.example.com"

PARAMETERS = (
    "grant_type", "resource", "scope", "authorization_details", "client_id", "client_secret", "client_assertion",
    "client_assertion_type", "code", "code_verifier", "redirect_uri", "refresh_token", "device_code", "token",
    "token_type_hint", "subject_token", "subject_token_type", "actor_token", "actor_token_type", "audience",
    "requested_token_type", "assertion", "response_type", "code_challenge", "code_challenge_method", "state", "nonce",
    "dpop_jkt", "request_uri", "request", "prompt", "max_age", "login_hint", "response_mode",
)  # fmt: skip

ODD = (
    "", " ", "\x00", "review\n", "é", "\U0001f600", "\u202e", "a" * 5000, "%", "null", "[]", "{}", "-1", "1e400",
    "9" * 400, "..", "." * 40, "a.b", "a.b.c", f"{'A' * 22}.{'A' * 43}", "A" * 43,
    '[{"type":"mcp_session","task":"report"}]', '[{"type":"mcp_session","task":"report\\n"}]', "[" * 300,
    f"{ISSUER}/mcp/files", f"{ISSUER}/sessions", f"{ISSUER}/operations", CALLBACK, "http://127.0.0.1:1/cb",
    "reporter", "host", "native", "robot", "https://[::1]/client", "https://cimd.example/client.json",
    "code", "S256", "none login", "0", "query", ASSERTION_TYPE, "urn:ietf:params:oauth:token-type:access_token",
    "urn:ietf:params:oauth:token-type:jwt", *GrantType,
)  # fmt: skip

METADATA = (
    "redirect_uris", "grant_types", "response_types", "token_endpoint_auth_method", "client_name", "jwks", "jwks_uri",
    "scope", "application_type", "software_statement", "client_id", "client_secret", "logo_uri",
)  # fmt: skip

KEY = new_key()
CLAIM_VALUES: st.SearchStrategy[Any] = st.sampled_from(
    (
        None, True, 0, -1, 1.5, 1e300, 2**53, 10**400, "", "x", "\x00", "é", "a" * 2000, [], [[]], {}, {"a": {}},
        ISSUER, f"{ISSUER}/token", f"{ISSUER}/mcp/files", LOGIN, PLATFORM, PROVIDER, "robot", "native", [ISSUER],
        "system:serviceaccount:prod:robot", {"sub": "x", "act": {"sub": "y"}}, {"jkt": "x"}, {"jkt": None},
    )
)  # fmt: skip
JSON_VALUES = st.recursive(CLAIM_VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner))
CLAIMS = st.dictionaries(
    st.sampled_from(
        (
            "iss", "sub", "aud", "exp", "nbf", "iat", "jti", "client_id", "azp", "scope", "resource", "act", "may_act",
            "cnf", "tenant", "sid", "typ", "events", "nonce", "htm", "htu", "ath", "auth_time", "authorization_details",
            "kubernetes.io", "user", "roles", "groups", "grant_id", "email",
        )
    ),
    CLAIM_VALUES,
    max_size=12,
)  # fmt: skip
HEADS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["typ", "kid", "crit", "jwk", "jku", "x5c", "zip", "b64"]),
    st.sampled_from(["JWT", "at+jwt", "dpop+jwt", "oauth-id-jag+jwt", "", "k1", 7, None, {}, ["b64"]]),
    max_size=3,
)


def made(head: dict[str, Any], claims: dict[str, Any]) -> str:
    return sign({"alg": "ES256", **head}, claims, KEY, "ES256")


JWTS = st.builds(made, HEADS, CLAIMS)
VALUES = st.sampled_from(ODD) | JWTS | st.text(max_size=80)
JWKS = st.dictionaries(
    st.sampled_from(["kty", "crv", "x", "y", "n", "e", "d", "k", "use", "alg", "kid"]),
    st.sampled_from(["EC", "P-256", "OKP", "Ed25519", "RSA", "oct", "A" * 43, "_" * 43, "", "é", "A" * 342, "AQAB", 7]),
    max_size=6,
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """Forms from hopeless to nearly good."""
    match draw(st.integers(0, 9)):
        case 0:
            return draw(st.binary(max_size=300))
        case 1:
            return draw(st.sampled_from([b"&" * 70, b"a=" + b"x" * 17_000, b"=", b"a=%ff", b"%00=1", b"a=1&a=2"]))
        case _:
            fields = draw(st.lists(st.tuples(st.sampled_from(PARAMETERS) | st.text(max_size=9), VALUES), max_size=12))
            grant = draw(st.sampled_from([*GrantType, None]))
            if grant is not None:
                fields = [("grant_type", grant), *fields]
            client = draw(st.sampled_from(["native", "host", None]))
            if client is not None and all(name != "client_id" for name, _ in fields):
                fields.append(("client_id", client))
            return urlencode(fields, errors="replace").encode()


def proof(path: str, jwk: dict[str, Any] | None, claims: dict[str, Any], now: int) -> bytes:
    header = {} if jwk is None else {"jwk": jwk}
    return Prover().proof(now, header=header, **{"htu": ISSUER + path, **claims}).encode()


@st.composite
def headers(draw: st.DrawFn, path: str, kind: bytes, now: int) -> list[tuple[bytes, bytes]]:
    """Mostly what a client sends, sometimes anything at all."""
    found: list[tuple[bytes, bytes]] = []
    kinds = [kind] * 8 + [kind + b"; charset=utf-8", b"text/plain", b"\xff"]
    found += [(b"content-type", value) for value in draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=1))]
    for name, values in (
        (
            b"authorization",
            st.sampled_from([basic("host", SECRET)["Authorization"].encode(), b"Basic ", b"Basic Og==", b"Bearer x"])
            | st.binary(max_size=60).map(lambda raw: b"Basic " + raw)
            | JWTS.map(lambda token: b"Bearer " + token.encode()),
        ),
        (
            b"dpop",
            st.builds(proof, st.just(path), st.none() | JWKS, CLAIMS, st.just(now)) | st.binary(max_size=60),
        ),
    ):
        many = draw(st.sampled_from([0, 0, 0, 1, 1, 2]))
        found += [(name, draw(values)) for _ in range(many)]
    return found


@dataclass
class Answered:
    """One answer of the application."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """The application of the process, and the loop that it lives in."""

    app: Application
    runner: asyncio.Runner
    now: int

    def post(self, path: str, body: bytes, sent: list[tuple[bytes, bytes]], method: str = "POST") -> Answered:
        return self.runner.run(self._post(path, body, sent, method))

    async def _post(self, path: str, body: bytes, sent: list[tuple[bytes, bytes]], method: str) -> Answered:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", f"localhost:{PORT}".encode()), *sent],
            "client": ("203.0.113.7", 40000),
            "server": ("127.0.0.1", PORT),
        }
        messages: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        await self.app(scope, receive, send)
        start, *rest = messages
        named = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
        return Answered(start["status"], named, b"".join(message.get("body", b"") for message in rest))


def configuration(directory: Path) -> dict[str, Any]:
    """Every door open that a form can come to: all grants, open registration, metadata documents, those who vouch."""
    whole = settings_for(directory, PORT, {"files": {"url": "http://127.0.0.1:9/mcp"}}, None)
    (directory / "secret").write_text(SECRET)
    (directory / "secret").chmod(0o600)
    (directory / "jwks.json").write_text(json.dumps({"keys": [{**KEY.as_dict(private=False), "kid": "k1"}]}))
    whole["agents"] = {
        "acme/robot": {
            "role": "reader",
            "tasks": ["report"],
            "bindings": [{"issuer": "embedded", "client_id": "robot"}, {"issuer": PLATFORM, "subject": "robot"}],
        },
        "acme/public-client": {"role": "reader", "tasks": ["report"]},
    }
    every = [grant.value for grant in GrantType]
    people = [grant for grant in every if grant != GrantType.CLIENT_CREDENTIALS]
    whole["clients"] = {
        "robot": {
            "tenant": "acme", "kind": "agent", "agent": "acme/robot", "auth": "private_key_jwt",
            "jwks_file": "jwks.json", "grants": every, "redirect_uris": [CALLBACK],
        },
        "host": {
            "tenant": "acme", "kind": "host", "auth": "client_secret", "secret_file": "secret", "grants": people,
            "redirect_uris": [CALLBACK],
        },
        "native": {
            "tenant": "acme", "kind": "public", "auth": "none", "grants": people[:3], "redirect_uris": [CALLBACK],
        },
    }  # fmt: skip
    whole["cimd"] = [{"tenant": "acme", "domain": "*.invalid.example"}]
    whole["registration"] = {"mode": "open", "tenant": "acme", "per_hour": 10_000, "clients": 100_000}
    whole["limits"] = {"requests": 100_000, "burst": 100_000}
    whole["workloads"] = [
        {
            "issuer": PLATFORM, "kind": "jwt", "algorithms": ["ES256"], "tenants": ["acme"],
            "jwks_file": "jwks.json",
        }
    ]  # fmt: skip
    return whole


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("forms")
    path = directory / "twogate.yaml"
    path.write_text(json.dumps(configuration(directory)))
    with asyncio.Runner() as runner:

        @asynccontextmanager
        async def opened() -> AsyncGenerator[Server]:
            state = await open_state(load_settings(path))
            state.revision.start()
            try:
                yield Server(build_app(state), runner, state.clock.now())
            finally:
                await state.close()

        context = opened()
        made_server = runner.run(context.__aenter__())
        try:
            yield made_server
        finally:
            runner.run(context.__aexit__(None, None, None))


def check(answered: Answered) -> None:
    """An OAuth answer: JSON, not to be kept, with an error word exactly where it is an error."""
    assert answered.status < 500, answered
    assert b"Traceback" not in answered.body
    if answered.status == 204:
        return
    assert answered.headers["content-type"] == "application/json"
    assert answered.headers["cache-control"] == "no-store"
    said: Any = json.loads(answered.body)
    assert said.__class__ is dict, answered
    assert (answered.status >= 400) == ("error" in said), answered
    if answered.status >= 400:
        assert said.keys() == {"error", "error_description"}
        described: str = said["error_description"]
        assert described.isascii()
        assert described.isprintable()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), path=st.sampled_from(FORMS))
def test_any_form_gets_an_oauth_answer(server: Server, data: st.DataObject, path: str) -> None:
    sent = data.draw(headers(path, FORM, server.now))
    check(server.post(path, data.draw(bodies()), sent))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    path=st.sampled_from(["/register", "/register/unknown", "/register/native"]),
    method=st.sampled_from(["POST", "PUT", "GET", "DELETE"]),
    body=st.binary(max_size=300)
    | st.dictionaries(
        st.sampled_from(METADATA),
        JSON_VALUES | st.just([CALLBACK]) | JWKS.map(lambda jwk: {"keys": [jwk]}) | st.sampled_from(ODD),
    ).map(lambda members: json.dumps(members).encode()),
)
def test_any_registration_gets_an_oauth_answer(
    server: Server, data: st.DataObject, path: str, method: str, body: bytes
) -> None:
    check(server.post(path, body, data.draw(headers(path, b"application/json", server.now)), method))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=HEADS, claims=CLAIMS, where=st.sampled_from(["assertion", "client_assertion", "token", "subject_token"]))
def test_a_well_signed_token_with_any_claims_gets_an_oauth_answer(
    server: Server, head: dict[str, Any], claims: dict[str, Any], where: str
) -> None:
    """Signed by a key that is trusted: a platform or a client that asserts nonsense."""
    now = server.now
    plausible = {"iat": now, "exp": now + 60, "aud": ISSUER, "jti": "j", "iss": PLATFORM, "sub": "robot"}
    if where == "client_assertion":
        plausible |= {"iss": "robot"}
    token = made(head, {**plausible, **claims})
    form = {
        "assertion": {"grant_type": GrantType.JWT_BEARER, "assertion": token, "resource": f"{ISSUER}/mcp/files"},
        "client_assertion": {
            "grant_type": "client_credentials",
            "client_assertion": token,
            "client_assertion_type": ASSERTION_TYPE,
            "resource": f"{ISSUER}/mcp/files",
        },
        "token": {"token": token, "client_id": "native"},
        "subject_token": {
            "grant_type": GrantType.TOKEN_EXCHANGE,
            "subject_token": token,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "resource": f"{ISSUER}/mcp/files",
        },
    }[where]
    sent = [(b"content-type", FORM)]
    if where == "subject_token":
        sent.append((b"authorization", basic("host", SECRET)["Authorization"].encode()))
    check(server.post("/revoke" if where == "token" else "/token", urlencode(form).encode(), sent))


def test_the_server_of_these_tests_does_give_tokens(server: Server) -> None:
    """Without this, a server that refuses everything would pass."""
    claims = {"iat": server.now, "exp": server.now + 60, "aud": ISSUER, "iss": PLATFORM, "sub": "robot"}
    form = {"grant_type": GrantType.JWT_BEARER, "assertion": made({}, claims), "resource": f"{ISSUER}/mcp/files"}
    answered = server.post("/token", urlencode(form).encode(), [(b"content-type", FORM)])
    check(answered)
    assert answered.status == 200, answered
