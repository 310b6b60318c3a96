"""The OpenID provider `oidc-provider` of npm as an external issuer: a process of its own that tests start and stop."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
import threading
import time
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
from joserfc import jwt
from joserfc.jwk import ECKey

from certlab import Certificate
from dpoplab import Prover
from harness.issuer import PrivateKey, new_key
from peers.peers import NODE, NODE_PEERS, require
from processlab import PATIENCE

SCRIPT = NODE_PEERS / "oidc-provider.mjs"
PACKAGE = NODE_PEERS / "node_modules" / "oidc-provider"
LIFETIME = 3600
"""Seconds that its access tokens live."""

OPAQUE, LOGIN = "opaque", "login"
"""The client whose access tokens are opaque, and the one where people log in."""

CERTIFIED, CERTIFIED_OPAQUE = "certified", "certified-opaque"
"""The clients whose access tokens, JWTs and opaque ones, are bound to the certificate that they show.

Each other client is named by the algorithm of its tokens.
"""

REDIRECT = "https://client.example.com/callback"


class OidcProvider:
    """The provider at one address, with keys and clients that outlive its process."""

    def __init__(
        self, directory: Path, port: int, resources: list[str], claims: dict[str, Any], user_claims: dict[str, Any]
    ) -> None:
        """Use the certificate, key and CA that `twogate init` made in `directory`.

        `claims` are in every access token, `user_claims` besides or instead of them where somebody logged in.
        """
        self.issuer = f"https://localhost:{port}"
        self.ca = directory / "ca.pem"
        self.keys: list[tuple[str, str, PrivateKey]] = []
        self._directory, self._port = directory, port
        self.resources, self._claims, self._user_claims = resources, claims, user_claims
        self.logins: list[dict[str, Any]] = []
        """Clients as oidc-provider writes them (RFC 7591), at which people log in for Twogate."""
        self.people: dict[str, dict[str, Any]] = {}
        """Further people besides alice, or her claims."""
        self._assertion_key = ECKey.generate_key("P-256")
        self._process: subprocess.Popen[str] | None = None
        self._log: list[str] = []

    def add_key(self, kid: str, algorithm: str) -> None:
        """A signing key; an earlier one of its algorithm is published still, but no longer signs."""
        self.keys.insert(0, (kid, algorithm, new_key(algorithm)))

    def remove_key(self, kid: str) -> None:
        """Publish a key no longer."""
        self.keys = [key for key in self.keys if key[0] != kid]

    def start(self) -> None:
        """Start it and return once it listens."""
        command = [require(NODE), str(SCRIPT)]
        require(PACKAGE)
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._process = process
        assert process.stdin is not None
        process.stdin.write(json.dumps(self._setup()))
        process.stdin.close()
        ready = threading.Event()
        threading.Thread(target=self._read, args=(process, ready), daemon=True).start()
        assert ready.wait(PATIENCE), f"oidc-provider was not ready in time: {self._log}"
        assert process.poll() is None, self._log

    def _read(self, process: subprocess.Popen[str], ready: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._log.append(line)
                if line == "ready\n":
                    ready.set()
        ready.set()

    def stop(self) -> None:
        """Stop it, if it runs."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE)

    def change(self, person: str, claims: dict[str, Any] | None) -> None:
        """Give a person an account with these claims, or (None) take it away, while the provider runs."""
        with self._http() as http:
            answer = http.get("/for-tests/people", params={"change": json.dumps({"id": person, "claims": claims})})
        assert answer.status_code == 204, (answer.text, self._log)

    def restart(self) -> None:
        """Take the keys as they are now."""
        self.stop()
        self.start()

    def token(self, client: str, resource: str) -> str:
        """An access token by client credentials with `private_key_jwt` (RFC 7523) for one resource (RFC 8707)."""
        form = {"grant_type": "client_credentials", "scope": "mcp:read", "resource": resource}
        with self._http() as http:
            token: str = self._redeem(http, client, form)["access_token"]
        return token

    def bound_token(
        self, client: str, resource: str, prover: Prover | None, certificate: Certificate | None = None
    ) -> str:
        """The same, bound to a key by a proof (RFC 9449), and to the certificate that a client shows."""
        form = {"grant_type": "client_credentials", "scope": "mcp:read", "resource": resource}
        proof = None if prover is None else {"DPoP": prover.proof(int(time.time()), htu=f"{self.issuer}/token")}
        with self._http(certificate) as http:
            tokens = self._redeem(http, client, form, proof)
        assert tokens["token_type"] == ("Bearer" if prover is None else "DPoP")
        token: str = tokens["access_token"]
        return token

    def take_back(self, client: str, token: str) -> None:
        """Revoke an access token (RFC 7009)."""
        with self._http() as http:
            answer = http.post("/token/revocation", data={"token": token, **self._assertion(client)})
        assert answer.status_code == 200, (answer.text, self._log)

    def write_assertion_key(self, path: Path) -> Path:
        """The private key that its clients authenticate with, as a file that only we can read."""
        path.touch(mode=0o600)
        path.write_bytes(self._assertion_key.as_pem(private=True))
        return path

    def log_in(self, resource: str) -> tuple[str, str]:
        """An access token and an ID token of the user, by the authorization code flow with PKCE (RFC 7636)."""
        verifier = str(uuid.uuid4()) * 2
        request = {
            "client_id": LOGIN, "response_type": "code", "redirect_uri": REDIRECT, "scope": "openid mcp:read",
            "resource": resource, "nonce": "n-0S6_WzA2Mj", "code_challenge_method": "S256",
            "code_challenge": urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode(),
        }  # fmt: skip
        with self._http() as http:
            answer = http.get("/auth", params=request)
            location = answer.headers["location"]
            for _ in range(5):  # login, consent, and back to the client
                if not location.startswith(REDIRECT):
                    answer = http.get(location)
                    assert answer.is_redirect, (answer.text, self._log)
                    location = answer.headers["location"]
            (code,) = parse_qs(urlsplit(location).query)["code"]
            form = {"grant_type": "authorization_code", "code": code, "code_verifier": verifier}
            tokens = self._redeem(http, LOGIN, {**form, "redirect_uri": REDIRECT, "resource": resource})
        return tokens["access_token"], tokens["id_token"]

    def _http(self, certificate: Certificate | None = None) -> httpx2.Client:
        context = ssl.create_default_context(cafile=str(self.ca))
        if certificate is not None:
            context.load_cert_chain(certificate.certificate_file, certificate.key_file)
        return httpx2.Client(base_url=self.issuer, verify=context, trust_env=False, timeout=PATIENCE)

    def _redeem(
        self, http: httpx2.Client, client: str, form: dict[str, str], headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        answer = http.post("/token", data={**form, **self._assertion(client)}, headers=headers)
        assert answer.status_code == 200, (answer.text, self._log)
        tokens: dict[str, Any] = answer.json()
        return tokens

    def _assertion(self, client: str) -> dict[str, str]:
        now = int(time.time())
        claims = {
            "iss": client,
            "sub": client,
            "aud": self.issuer,
            "iat": now,
            "exp": now + 60,
            "jti": str(uuid.uuid4()),
        }
        return {
            "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            "client_assertion": jwt.encode({"alg": "ES256"}, claims, self._assertion_key),
        }

    def _setup(self) -> dict[str, Any]:
        algorithms = sorted({algorithm for _, algorithm, _ in self.keys})
        jwks = {"keys": [self._assertion_key.as_dict(private=False)]}
        clients = [{"id": algorithm, "alg": algorithm, "jwks": jwks} for algorithm in algorithms]
        return {
            "issuer": self.issuer,
            "port": self._port,
            "certificate": str(self._directory / "server.pem"),
            "key": str(self._directory / "server.key"),
            "jwks": {
                "keys": [
                    {**key.as_dict(private=True), "kid": kid, "alg": algorithm, "use": "sig"}
                    for kid, algorithm, key in self.keys
                ]
            },
            "clients": [
                *clients,
                {"id": OPAQUE, "alg": None, "jwks": jwks},
                {"id": CERTIFIED, "alg": "ES256", "jwks": jwks, "certificate": True},
                {"id": CERTIFIED_OPAQUE, "alg": None, "jwks": jwks, "certificate": True},
                {"id": LOGIN, "alg": "ES256", "jwks": jwks, "redirect": REDIRECT},
            ],
            "resources": self.resources,
            "claims": self._claims,
            "user": {"id": "alice", "claims": self._user_claims},
            "logins": self.logins,
            "people": self.people,
            "lifetime": LIFETIME,
        }
