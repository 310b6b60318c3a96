"""A whole authorization server in one process, on the real SQLite store, for tests of the token endpoint."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc.jwk import ECKey, OKPKey, RSAKey
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette

from harness.database import open_migrated
from twogate.adapters.clock import SystemClock
from twogate.adapters.envelope import LocalEnvelope
from twogate.adapters.rng import SystemRng
from twogate.adapters.signers.local import LocalSigner
from twogate.config.issuers import embedded_issuer
from twogate.core.access import Policy, Role, Tenant
from twogate.core.audit.record import AuditEvent
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import parse_jwks
from twogate.core.oauth.client_auth import ASSERTION_TYPE
from twogate.core.oauth.metadata import INTROSPECT_PATH, REVOKE_PATH, TOKEN_PATH, ServerFaces
from twogate.core.oauth.resource import tenant_resources
from twogate.core.principal import PUBLIC_CLIENT, Agent, AgentId, Binding, Method
from twogate.flows.authserver.access_tokens import AccessTokens, TokenSettings
from twogate.flows.authserver.authenticate_client import ClientAuthenticator
from twogate.flows.authserver.client_credentials import ClientCredentials
from twogate.flows.authserver.clients import Client, ClientAuth, SecretDigest
from twogate.flows.authserver.code import Codes
from twogate.flows.authserver.code_grant import CodeGrant
from twogate.flows.authserver.device import DeviceGrant
from twogate.flows.authserver.directory import Directory
from twogate.flows.authserver.dpop import DpopProofs
from twogate.flows.authserver.families import Families, Lifespans
from twogate.flows.authserver.form import Forms
from twogate.flows.authserver.grant import Grant
from twogate.flows.authserver.introspect import IntrospectionEndpoint
from twogate.flows.authserver.jwks import jwks_document
from twogate.flows.authserver.metadata import PublicDocuments, build_documents
from twogate.flows.authserver.refresh import RefreshGrant
from twogate.flows.authserver.retry_answer import RetryAnswers
from twogate.flows.authserver.revocations import Revocations
from twogate.flows.authserver.revoke import RevocationEndpoint
from twogate.flows.authserver.token import TokenEndpoint
from twogate.flows.gateway.issuers import FixedKeys, Issuers
from twogate.flows.registry import Registry
from twogate.flows.sessions import Sessions
from twogate.stores.sql.clients import SqlClientStore
from twogate.stores.sql.codes import SqlCodeStore
from twogate.stores.sql.device_codes import SqlDeviceStore
from twogate.stores.sql.grants import SqlGrantStore
from twogate.stores.sql.registry import SqlRegistryStore
from twogate.stores.sql.replay import SqlReplayStore
from twogate.stores.sql.revision import SqliteRevision
from twogate.stores.sql.revocations import SqlRevocationStore
from twogate.stores.sql.sessions import SqlSessionStore
from twogate.stores.sql.users import SqlUserStore
from twogate.web.authserver import form_route
from twogate.web.wellknown import wellknown_routes

ISSUER = "https://mcp.example.com"
FILES = f"{ISSUER}/mcp/files"
SECRET = "b0c5DdhcYpPTpKqSCJUCfkMqlnEF2XPhVWvTeuxKL4E"
OTHER_SECRET = "uW2zWfC6m3s2nV0m8mRr0uUe0sFqvYyQZ0pV2c1d3e4"
REPORTER = AgentId("acme", "reporter")
ROBOT = AgentId("acme", "robot")
MAILER = AgentId("globex", "mailer")
PUBLIC = AgentId("acme", PUBLIC_CLIENT)

CODE_LIFETIME = 60
LIFESPANS = Lifespans(unused=30 * 86400, whole=90 * 86400)

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass
class StepClock:
    """A clock that moves only when told to; it starts at the real time, because real clients read that."""

    seconds: int = field(default_factory=lambda: SystemClock().now())

    def now(self) -> int:
        return self.seconds

    def now_us(self) -> int:
        return self.seconds * 1_000_000

    def monotonic(self) -> float:
        return float(self.seconds)


@dataclass
class RecordingAudit:
    """An audit trail in memory that can be made to fail."""

    events: list[AuditEvent] = field(default_factory=list)
    broken: bool = False

    async def record(self, event: AuditEvent) -> None:
        """A refusal, each written: coalescing has tests of its own."""
        await self.append(event)

    async def append(self, event: AuditEvent) -> None:
        if self.broken:
            raise GateError(ErrorCode.AUDIT_UNAVAILABLE, "told to")
        self.events.append(event)

    @property
    def last(self) -> AuditEvent:
        return self.events[-1]


@dataclass
class StubUpstreams:
    """Identity providers that know everybody, unless told otherwise."""

    refusal: GateError | None = None
    asked: list[str] = field(default_factory=list)

    async def confirm(self, upstream: str, now: int) -> None:
        self.asked.append(upstream)
        if self.refusal is not None:
            raise self.refusal


def digest(secret: str, expires_at: int | None = None) -> SecretDigest:
    return SecretDigest(hashlib.sha256(secret.encode()).hexdigest(), expires_at)


def basic(client_id: str, secret: str) -> dict[str, str]:
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}


def public_jwks(*keys: PrivateKey) -> str:
    """The public JWK set of some private keys, each with its thumbprint as `kid`."""
    entries: list[dict[str, Any]] = []
    for key in keys:
        public = key.public_key()
        jwk: ECKey | RSAKey | OKPKey
        if isinstance(public, ec.EllipticCurvePublicKey):
            jwk = ECKey.import_key(public)
        elif isinstance(public, rsa.RSAPublicKey):
            jwk = RSAKey.import_key(public)
        else:
            jwk = OKPKey.import_key(public)
        entries.append({**jwk.as_dict(private=False), "kid": jwk.thumbprint()})
    return json.dumps({"keys": entries})


@dataclass
class Lab:
    """The server, its parts, and an HTTP client that talks to it."""

    http: httpx2.AsyncClient
    app: Starlette
    endpoint: TokenEndpoint
    tokens: AccessTokens
    documents: PublicDocuments
    clients: SqlClientStore
    registry: SqlRegistryStore
    clock: StepClock
    audit: RecordingAudit
    key: ec.EllipticCurvePrivateKey
    engine: AsyncEngine
    codes: Codes
    families: Families
    upstreams: StubUpstreams
    forms: Forms
    authenticator: ClientAuthenticator
    directory: Directory
    devices: SqlDeviceStore
    agents: Registry
    own: Issuers
    replay: SqlReplayStore

    def claims(self, **changes: object) -> dict[str, object]:
        """Claims of a good assertion of the client `robot`; None takes one away."""
        now = self.clock.now()
        claims = {
            "iss": "robot",
            "sub": "robot",
            "aud": ISSUER,
            "iat": now,
            "exp": now + 60,
            "jti": SystemRng().token(16).hex(),
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def assertion(
        self,
        *,
        key: PrivateKey | None = None,
        alg: str = "ES256",
        headers: dict[str, Any] | None = None,
        **changes: object,
    ) -> str:
        return jwt.encode(self.claims(**changes), key or self.key, algorithm=alg, headers=headers)

    async def post(self, form: dict[str, str], headers: dict[str, str] | None = None) -> httpx2.Response:
        """A token request for /mcp/files, changed by `form`; an empty value takes a parameter away."""
        whole = {"grant_type": "client_credentials", "resource": FILES, **form}
        return await self.http.post("/token", data={k: v for k, v in whole.items() if v}, headers=headers)

    async def with_secret(self, headers: dict[str, str] | None = None, **form: str) -> httpx2.Response:
        return await self.post(form, basic("reporter", SECRET) if headers is None else headers)

    async def with_assertion(self, assertion: str, **form: str) -> httpx2.Response:
        return await self.post({"client_assertion": assertion, "client_assertion_type": ASSERTION_TYPE, **form})

    async def add_client(self, client_id: str, agent: AgentId, *, secret: str = "", jwks: str | None = None) -> None:
        auth = ClientAuth.PRIVATE_KEY_JWT if jwks else ClientAuth.CLIENT_SECRET
        digests = () if jwks else (digest(secret),)
        client = Client(client_id, agent.tenant, agent, auth, digests, jwks)
        await self.clients.add(client, None, (), self.clock.now())


def own_issuers(signer: LocalSigner, policy: Policy) -> Issuers:
    """The server itself, as the gateway of the composition trusts it."""
    trusted = embedded_issuer(ISSUER, signer.algorithm, policy.tenants, policy.roles, 900)
    return Issuers({ISSUER: trusted}, {ISSUER: FixedKeys(parse_jwks(jwks_document([signer.public_jwk()])))})


@asynccontextmanager
async def open_lab(
    directory: Path,
    more_bindings: Mapping[Binding, AgentId] | None = None,
    clients_from: Callable[[SqlClientStore, StepClock], Directory] | None = None,
) -> AsyncGenerator[Lab]:
    """Start a server with a client by secret (`reporter`), one by key (`robot`), one of another tenant (`mailer`)."""
    engine = await open_migrated(f"sqlite:///{directory / 'twogate.db'}")
    revision = SqliteRevision(directory / "twogate.db")
    clock, audit, rng = StepClock(), RecordingAudit(), SystemRng()
    signer = LocalSigner.open(directory / "keys")
    store, clients = SqlRegistryStore(engine), SqlClientStore(engine)
    agents = {agent: Agent(agent, "reader", ("review",)) for agent in (REPORTER, ROBOT, MAILER, PUBLIC)}
    resources = tenant_resources(ISSUER, {"acme": {"files", "git"}, "globex": {"mail"}})
    settings = TokenSettings(ISSUER, resources, frozenset({"reports", "admin"}))
    bindings = {
        Binding(Method.JWT, ISSUER, client): agent
        for client, agent in (("reporter", REPORTER), ("robot", ROBOT), ("mailer", MAILER))
    }
    registry = Registry(store, revision, agents, {**bindings, **(more_bindings or {})})
    policy = Policy(
        generation="lab",
        classes={},
        roles={"reader": Role("reader", frozenset({"read"}))},
        tasks={"review": frozenset({"read"})},
        scopes={},
        groups={},
        tenants={"acme": Tenant(frozenset({"files", "git"})), "globex": Tenant(frozenset({"mail"}))},
    )
    sessions = Sessions(SqlSessionStore(engine), revision, lambda: policy, audit, clock, rng)
    replay = SqlReplayStore(engine)
    found = Directory(clients) if clients_from is None else clients_from(clients, clock)
    authenticator = ClientAuthenticator(ISSUER, found, clients, replay, registry)
    forms = Forms(ISSUER, authenticator, DpopProofs(ISSUER, replay, bytes(32)), audit, clock)
    people = SqlUserStore(engine)
    tokens = AccessTokens(settings, people, sessions, signer, audit, clock, rng)
    code_store, family_store, upstreams = SqlCodeStore(engine), SqlGrantStore(engine), StubUpstreams()
    revocations = Revocations(SqlRevocationStore(engine))
    codes = Codes(code_store, rng, CODE_LIFETIME)
    devices = SqlDeviceStore(engine)
    families = Families(family_store, tokens, revocations, audit, clock, rng, LIFESPANS)
    answers = RetryAnswers(LocalEnvelope(bytes(32), rng), rng)
    grants: list[Grant] = [
        ClientCredentials(tokens),
        CodeGrant(code_store, families),
        RefreshGrant(family_store, families, tokens, upstreams, answers, audit, clock, rng),
        DeviceGrant(devices, families),
    ]
    endpoint = TokenEndpoint(forms, grants)
    every = frozenset().union(*resources.values())
    faces = ServerFaces(grants=endpoint.grants, introspection=True, revocation=True)
    documents = build_documents(ISSUER, [signer.public_jwk()], every, [ISSUER], settings.scopes, faces)
    own = own_issuers(signer, policy)
    revocation = RevocationEndpoint(forms, own, registry, families, revocations, audit, clock)
    routes = [
        form_route(TOKEN_PATH, endpoint.respond, ISSUER, cors=True),
        form_route(INTROSPECT_PATH, IntrospectionEndpoint(forms, own, registry, people, families).respond, ISSUER),
        form_route(REVOKE_PATH, revocation.respond, ISSUER),
        *wellknown_routes(ISSUER, lambda: documents),
    ]
    app = Starlette(routes=routes)
    # Starlette would answer /token/ with a redirect to whatever Host says.
    app.router.redirect_slashes = False
    key = ec.generate_private_key(ec.SECP256R1())
    transport = httpx2.ASGITransport(app=app, client=("203.0.113.7", 40000))
    try:
        async with httpx2.AsyncClient(transport=transport, base_url=ISSUER) as http:
            lab = Lab(
                http,
                app,
                endpoint,
                tokens,
                documents,
                clients,
                store,
                clock,
                audit,
                key,
                engine,
                codes,
                families,
                upstreams,
                forms,
                authenticator,
                found,
                devices,
                registry,
                own,
                replay,
            )
            await lab.add_client("reporter", REPORTER, secret=SECRET)
            await lab.add_client("robot", ROBOT, jwks=public_jwks(key))
            await lab.add_client("mailer", MAILER, secret=OTHER_SECRET)
            yield lab
    finally:
        revision.close()
        await engine.dispose()
