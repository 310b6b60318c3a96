"""The token lab with everyone who vouches for others: platforms, an identity provider, and an external issuer.

`alice` has consented to the client `exchanger` at /mcp/files; the external issuer and the provider know her too.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from joserfc.jwk import ECKey
from sqlalchemy import insert
from starlette.applications import Starlette

from harness.issuer import PrivateKey, new_key, sign
from tokenlab import FILES, ISSUER, MAILER, OTHER_SECRET, PUBLIC, REPORTER, ROBOT, SECRET, Lab, basic, digest, open_lab
from twogate.adapters.rng import SystemRng
from twogate.core.audit.accessor import Accessors
from twogate.core.audit.record import AuditEvent, EventKind
from twogate.core.jose.keys import Algorithm, parse_jwks
from twogate.core.oauth.exchange import ACCESS_TOKEN
from twogate.core.oauth.grant_type import GrantType
from twogate.core.oauth.id_jag import IdJagIssuer
from twogate.core.oauth.workload_token import WorkloadIssuer, WorkloadKind, key_uses
from twogate.core.principal import AgentId, Binding, Method, Principal
from twogate.flows.authserver.client_credentials import ClientCredentials
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind
from twogate.flows.authserver.consent import Consents
from twogate.flows.authserver.exchange import TokenExchange
from twogate.flows.authserver.grant import Authorization, Grant
from twogate.flows.authserver.identity_assertions import IdentityAssertions
from twogate.flows.authserver.jwt_bearer import JwtBearer
from twogate.flows.authserver.people import User
from twogate.flows.authserver.person_trail import PersonTrail
from twogate.flows.authserver.revocations import RevocationKind, Revocations
from twogate.flows.authserver.subject_tokens import SubjectTokens
from twogate.flows.authserver.token import TokenEndpoint
from twogate.flows.authserver.users import Users
from twogate.flows.authserver.workloads import Workloads, with_workloads
from twogate.flows.gateway.authenticate import Authenticator
from twogate.flows.gateway.credential import BearerToken
from twogate.flows.gateway.issuers import ClaimPointers, FixedKeys, Issuers, TrustedIssuer
from twogate.stores.sql.consents import SqlConsentStore
from twogate.stores.sql.engine import writing
from twogate.stores.sql.revocations import SqlRevocationStore
from twogate.stores.sql.tables import identities, users
from twogate.stores.sql.users import SqlUserStore
from twogate.web.authserver import form_route

GIT = f"{ISSUER}/mcp/git"
SESSIONS = f"{ISSUER}/sessions"
OPERATIONS = f"{ISSUER}/operations"
DOMAIN = "spiffe://example.org"
SPIFFE_ID = f"{DOMAIN}/ns/prod/sa/reporter"
CLUSTER = "https://kubernetes.default.svc"
SERVICE_ACCOUNT = "system:serviceaccount:prod:robot"
FORGE = "https://token.forge.example"
IDP = "https://idp.acme.example"
LOGIN = "https://login.example.com"
NOT_ALLOWED = "https://other-login.example.com"
ALICE = "alice-subject"
ALICE_THERE = "U019488227"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_ES256 = frozenset({Algorithm.ES256})
_EVERY = frozenset(GrantType)


class Voucher:
    """Somebody who signs tokens; its key set has one key, `k1`."""

    def __init__(self, use: str | None = None) -> None:
        self.key: PrivateKey = new_key()
        entry = {**self.key.as_dict(private=False), "kid": "k1"} | ({} if use is None else {"use": use})
        self.jwks = json.dumps({"keys": [entry]}).encode()

    def sign(self, claims: dict[str, Any], header: dict[str, Any] | None = None, key: PrivateKey | None = None) -> str:
        protected = {"alg": "ES256", "kid": "k1", **(header or {})}
        protected = {name: value for name, value in protected.items() if value is not None}
        present = {name: value for name, value in claims.items() if value is not None}
        return sign(protected, present, key or self.key, "ES256")


async def add_user(
    lab: Lab, tenant: str, subject: str, name: str, display_name: str = "", groups: Sequence[str] = ()
) -> None:
    async with writing(lab.engine) as connection:
        await connection.execute(
            insert(users).values(
                tenant=tenant,
                subject=subject,
                name=name,
                display_name=display_name,
                roles="[]",
                groups=json.dumps(list(groups)),
                password_hash="",
                provider="",
                created_at=1,
            )
        )


async def link(lab: Lab, issuer: str, there: str, tenant: str, subject: str) -> None:
    row = {"issuer": issuer, "provider_subject": there, "tenant": tenant, "subject": subject, "created_at": 1}
    async with writing(lab.engine) as connection:
        await connection.execute(insert(identities).values(**row))


@dataclass
class ExchangeLab:
    """The lab, those who vouch, and the requests of tests."""

    lab: Lab
    http: httpx2.AsyncClient
    endpoint: TokenEndpoint
    people: Users
    consents: Consents
    revocations: Revocations
    vouchers: dict[str, Voucher]

    @property
    def now(self) -> int:
        return self.lab.clock.now()

    def svid(self, header: dict[str, Any] | None = None, key: PrivateKey | None = None, /, **changes: Any) -> str:
        """A JWT-SVID for us, as a SPIRE server makes it."""
        claims = {"sub": SPIFFE_ID, "aud": [ISSUER], "iat": self.now, "exp": self.now + 300, **changes}
        return self.vouchers[DOMAIN].sign(claims, {"typ": "JWT", **(header or {})}, key)

    def service_account(self, header: dict[str, Any] | None = None, /, **changes: Any) -> str:
        """A projected service-account token for us, as a Kubernetes cluster makes it."""
        account = {"name": "robot", "uid": "1f2e"}
        claims = {
            "iss": CLUSTER,
            "sub": SERVICE_ACCOUNT,
            "aud": [ISSUER],
            "iat": self.now,
            "nbf": self.now,
            "exp": self.now + 3607,
            "jti": SystemRng().token(16).hex(),
            "kubernetes.io": {"namespace": "prod", "serviceaccount": account, "pod": {"name": "robot-0", "uid": "9"}},
            **changes,
        }
        return self.vouchers[CLUSTER].sign(claims, header)

    def jag(self, header: dict[str, Any] | None = None, /, **changes: Any) -> str:
        """An ID-JAG for the client `exchanger` and the person that the provider calls ALICE_THERE."""
        claims = {
            "iss": IDP,
            "sub": ALICE_THERE,
            "aud": ISSUER,
            "client_id": "exchanger",
            "jti": SystemRng().token(16).hex(),
            "iat": self.now,
            "exp": self.now + 300,
            "resource": FILES,
            "scope": "reports",
            "email": "alice@acme.example",
            "groups": ["finance"],
            **changes,
        }
        return self.vouchers[IDP].sign(claims, {"typ": "oauth-id-jag+jwt", **(header or {})})

    def external(self, header: dict[str, Any] | None = None, issuer: str = LOGIN, /, **changes: Any) -> str:
        """An access token of the external issuer, given to the exchanger as it is called there."""
        claims = {
            "iss": issuer,
            "sub": ALICE_THERE,
            "azp": "ext-reporter",
            "aud": "api://something",
            "iat": self.now,
            "exp": self.now + 200,
            "scope": "reports admin",
            **changes,
        }
        return self.vouchers[issuer].sign(claims, {"typ": "at+jwt", **(header or {})})

    async def own(self, client_id: str = "exchanger", **how: Any) -> str:
        """An access token of ours for alice, given to a client; `how` changes what was granted or how it is issued."""
        of_grant = {name: how.pop(name) for name in list(how) if name in Authorization.__struct_fields__}
        client = await self.lab.clients.get(client_id)
        assert client is not None
        agent = None if client.agent is None else await self.lab.agents.agent(client.agent)
        what = {"resource": FILES, "scopes": ("reports", "admin"), "user": ALICE, **of_grant}
        authorization = Authorization(tenant=client.tenant, client_id=client_id, **what)
        issued = await self.lab.tokens.issue(authorization, client, agent, method="test", address="", **how)
        return issued.token

    async def post(
        self, form: dict[str, str], by: str = "exchanger", headers: dict[str, str] | None = None
    ) -> httpx2.Response:
        """A token request by a client with a secret, by nobody if `by` is empty; '' takes a parameter away."""
        sent = dict(headers or {})
        if by:
            sent |= basic(by, OTHER_SECRET if by == "mailer2" else SECRET)
        return await self.http.post("/token", data={k: v for k, v in form.items() if v}, headers=sent)

    async def exchange(
        self, token: str, by: str = "exchanger", headers: dict[str, str] | None = None, /, **form: str
    ) -> httpx2.Response:
        whole = {
            "grant_type": EXCHANGE,
            "subject_token": token,
            "subject_token_type": ACCESS_TOKEN,
            "resource": FILES,
            **form,
        }
        return await self.post(whole, by, headers)

    async def bearer(
        self, assertion: str, by: str = "", headers: dict[str, str] | None = None, /, **form: str
    ) -> httpx2.Response:
        whole = {"grant_type": BEARER, "assertion": assertion, "resource": FILES, **form}
        return await self.post(whole, by, headers)

    async def allow(
        self, client_id: str = "exchanger", subject: str = ALICE, resource: str = FILES, task: str | None = None
    ) -> None:
        """What the person would allow on the consent page."""
        client = await self.lab.clients.get(client_id)
        assert client is not None
        await self.consents.remember(client, subject, resource, task, ("reports", "admin"), self.now)

    async def revoke(self, kind: RevocationKind, value: str) -> None:
        await self.revocations.revoke(kind, value, self.now + 3600, self.now)

    async def gateway(self, token: str, resource: str = FILES) -> Principal:
        """Whom gate one takes the bearer of a token for."""
        authenticator = Authenticator(self.lab.own, Accessors("a1", bytes(32)))
        return await authenticator.authenticate(BearerToken(token), resource, await self.lab.agents.view(), self.now)

    async def made(self) -> list[User]:
        """Everybody of the tenant but alice."""
        return [user for user in await SqlUserStore(self.lab.engine).list("acme") if user.subject != ALICE]

    @property
    def last(self) -> AuditEvent:
        return self.lab.audit.last

    def assert_refused(
        self, response: httpx2.Response, reason: str, error: str = "invalid_grant", status: int = 400
    ) -> None:
        """Refused with this OAuth error, recorded with this reason, and nothing handed out."""
        assert (response.status_code, response.json()["error"]) == (status, error), (response.text, self.last)
        assert response.json().keys() == {"error", "error_description"}
        assert (self.last.kind, self.last.reason) == (EventKind.TOKEN_REFUSED, reason), self.last


def _external(issuer: str, *, one_time: bool = False) -> TrustedIssuer:
    return TrustedIssuer(
        issuer=issuer,
        algorithms=_ES256,
        types=frozenset({"at+jwt"}),
        tenants=frozenset({"acme"}),
        roles=frozenset(),
        pointers=ClaimPointers(agent="/azp", user="/sub", scope="/scope"),
        max_lifetime=3600,
        one_time=one_time,
    )


@asynccontextmanager
async def open_exchange_lab(directory: Path, *, one_time: bool = False) -> AsyncGenerator[ExchangeLab]:
    """Start the server with both grants, and the clients `exchanger`, `second`, `host`, `public` and `mailer2`.

    `one_time` is the external issuer's setting.
    """
    platforms = {
        DOMAIN: WorkloadIssuer(DOMAIN, WorkloadKind.SPIFFE, _ES256, frozenset({"acme"}), 3600),
        CLUSTER: WorkloadIssuer(CLUSTER, WorkloadKind.KUBERNETES, _ES256, frozenset({"acme"}), 3600),
        FORGE: WorkloadIssuer(FORGE, WorkloadKind.JWT, _ES256, frozenset({"acme"}), 3600),
    }
    providers = {IDP: IdJagIssuer(IDP, "acme", _ES256, 300, "/email", "/groups")}
    bindings: dict[Binding, AgentId] = {
        Binding(Method.JWT, issuer, name): agent
        for issuer, name, agent in (
            (ISSUER, "exchanger", REPORTER),
            (ISSUER, "second", ROBOT),
            (ISSUER, "mailer2", MAILER),
            (LOGIN, "ext-reporter", REPORTER),
            (LOGIN, "ext-robot", ROBOT),
            (NOT_ALLOWED, "ext-reporter", REPORTER),
            (DOMAIN, SPIFFE_ID, REPORTER),
            (CLUSTER, SERVICE_ACCOUNT, ROBOT),
            (FORGE, "repo:acme/reports", ROBOT),
            (FORGE, "repo:globex/mail", MAILER),
        )
    }
    vouchers = {name: Voucher() for name in (CLUSTER, FORGE, IDP, LOGIN, NOT_ALLOWED)} | {DOMAIN: Voucher("jwt-svid")}
    keys = {
        name: FixedKeys(parse_jwks(voucher.jwks, key_uses(platforms[name].kind)))
        if name in platforms
        else FixedKeys(parse_jwks(voucher.jwks))
        for name, voucher in vouchers.items()
    }
    async with open_lab(directory, with_workloads(bindings, platforms, ISSUER)) as lab:
        trail = PersonTrail(ISSUER, lab.audit, lab.audit, lab.clock)
        people = Users(SqlUserStore(lab.engine), SystemRng(), trail)
        consents = Consents(SqlConsentStore(lab.engine), lab.audit, lab.clock, ISSUER)
        workloads = Workloads(ISSUER, platforms, keys, lab.agents)
        exchanging = Issuers({**lab.own.trusted, LOGIN: _external(LOGIN, one_time=one_time)}, {**lab.own.keys, **keys})
        subjects = SubjectTokens(ISSUER, exchanging, lab.agents, people, lab.replay)
        identity = IdentityAssertions(ISSUER, providers, keys, lab.replay, people)
        grants: list[Grant] = [
            ClientCredentials(lab.tokens),
            TokenExchange(lab.tokens, subjects, consents, workloads),
            JwtBearer(lab.tokens, workloads, identity),
        ]
        endpoint = TokenEndpoint(lab.forms, grants)
        app = Starlette(routes=[form_route("/token", endpoint.respond, ISSUER, cors=True)])
        transport = httpx2.ASGITransport(app=app, client=("203.0.113.7", 40000))
        clients = [
            ("exchanger", REPORTER, ClientKind.AGENT, ClientAuth.CLIENT_SECRET),
            ("second", ROBOT, ClientKind.AGENT, ClientAuth.CLIENT_SECRET),
            ("host", PUBLIC, ClientKind.HOST, ClientAuth.CLIENT_SECRET),
            ("public", PUBLIC, ClientKind.PUBLIC, ClientAuth.NONE),
            ("mailer2", MAILER, ClientKind.AGENT, ClientAuth.CLIENT_SECRET),
        ]
        for client_id, agent, kind, auth in clients:
            secrets = (digest(OTHER_SECRET if client_id == "mailer2" else SECRET),)
            client = Client(
                client_id,
                agent.tenant,
                agent,
                auth,
                secrets if auth is ClientAuth.CLIENT_SECRET else (),
                kind=kind,
                grants=_EVERY,
            )
            await lab.clients.add(client, None, (), lab.clock.now())
        await add_user(lab, "acme", ALICE, "alice", "Alice", ["finance"])
        await link(lab, LOGIN, ALICE_THERE, "acme", ALICE)
        revocations = Revocations(SqlRevocationStore(lab.engine))
        async with httpx2.AsyncClient(transport=transport, base_url=ISSUER) as http:
            exchange = ExchangeLab(lab, http, endpoint, people, consents, revocations, vouchers)
            await exchange.allow()
            yield exchange


class ProofKey:
    """A key for proofs of possession at the token endpoint (RFC 9449)."""

    def __init__(self, lab: ExchangeLab) -> None:
        self._lab = lab
        self._key = ECKey.generate_key("P-256")
        self.thumbprint = self._key.thumbprint()

    async def headers(self) -> dict[str, str]:
        """A fresh proof with the server's nonce."""
        refused = await self._lab.post({"grant_type": EXCHANGE}, "exchanger", self._proof(None))
        assert refused.json()["error"] == "use_dpop_nonce"
        return self._proof(refused.headers["DPoP-Nonce"])

    def _proof(self, nonce: str | None) -> dict[str, str]:
        claims = {"jti": SystemRng().token(16).hex(), "htm": "POST", "htu": f"{ISSUER}/token", "iat": self._lab.now}
        header = {"alg": "ES256", "typ": "dpop+jwt", "jwk": self._key.as_dict(private=False)}
        return {"DPoP": sign(header, claims | ({} if nonce is None else {"nonce": nonce}), self._key, "ES256")}
