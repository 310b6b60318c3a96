"""The code and refresh grants of one replica, on any database: several of them on one database are several replicas."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy.ext.asyncio import AsyncEngine

from grantlab import ALICE, CALLBACK, CHALLENGE, VERIFIER, confidential, public
from harness.database import open_migrated
from tokenlab import (
    CODE_LIFETIME,
    FILES,
    ISSUER,
    LIFESPANS,
    RecordingAudit,
    StepClock,
    StubUpstreams,
)
from twogate.adapters.envelope import LocalEnvelope
from twogate.adapters.rng import SystemRng
from twogate.adapters.signers.local import LocalSigner
from twogate.core.access import Policy
from twogate.core.oauth.resource import tenant_resources
from twogate.core.principal import Agent
from twogate.flows.authserver.access_tokens import AccessTokens, TokenSettings
from twogate.flows.authserver.authenticate_client import Trace
from twogate.flows.authserver.code import AuthorizationCode, Codes, CodeStore
from twogate.flows.authserver.code_grant import CodeGrant
from twogate.flows.authserver.families import Families, FamilyStore, Revoker
from twogate.flows.authserver.form import ClientCall
from twogate.flows.authserver.grant import Authorization
from twogate.flows.authserver.refresh import RefreshGrant
from twogate.flows.authserver.retry_answer import RetryAnswers
from twogate.flows.authserver.revocations import Revocations
from twogate.flows.sessions import Sessions
from twogate.stores.sql.codes import SqlCodeStore
from twogate.stores.sql.engine import insert_if_absent, writing
from twogate.stores.sql.grants import SqlGrantStore
from twogate.stores.sql.opening import OpenRevision, open_revision
from twogate.stores.sql.revocations import SqlRevocationStore
from twogate.stores.sql.sessions import SqlSessionStore
from twogate.stores.sql.tables import users
from twogate.stores.sql.users import SqlUserStore

CLIENTS = {client.client_id: client for client in (confidential("web"), public("native"))}

_KEY = ec.generate_private_key(ec.SECP256R1())
_POLICY = Policy(generation="lab", classes={}, roles={}, tasks={}, scopes={}, groups={}, tenants={})


@dataclass
class Replica:
    """One process's grants; `answers` are bodies as a client gets them."""

    engine: AsyncEngine
    revision: OpenRevision
    codes: Codes
    families: Families
    code_grant: CodeGrant
    refresh_grant: RefreshGrant
    clock: StepClock
    audit: RecordingAudit = field(default_factory=RecordingAudit)

    async def code(self, client_id: str = "web", **changes: Any) -> str:
        """A code of alice's."""
        authorization = Authorization("acme", client_id, FILES, ("reports",), user=ALICE)
        code = AuthorizationCode(authorization, CALLBACK, True, CHALLENGE, refresh=True)
        return await self.codes.issue(msgspec.structs.replace(code, **changes), self.clock.now())

    async def redeem(
        self, code: str, client_id: str = "web", proof: str | None = None, *, verifier: str = VERIFIER
    ) -> dict[str, Any]:
        form = {"code": code, "redirect_uri": CALLBACK, "code_verifier": verifier}
        return dict((await self.code_grant.issue(self._call(form, client_id, proof))).body)

    async def refresh(self, token: str, client_id: str = "web", proof: str | None = None) -> dict[str, Any]:
        form = {"refresh_token": token}
        return dict((await self.refresh_grant.issue(self._call(form, client_id, proof))).body)

    def _call(self, form: dict[str, str], client_id: str, proof: str | None) -> ClientCall:
        client = CLIENTS[client_id]
        assert client.agent is not None
        agent = Agent(client.agent, "reader", ())
        return ClientCall(form, client, agent, None, proof, self.clock.now(), "203.0.113.7", Trace())


@asynccontextmanager
async def open_replica(
    url: str,
    clock: StepClock,
    *,
    codes: type[SqlCodeStore] = SqlCodeStore,
    grants: type[SqlGrantStore] = SqlGrantStore,
    revocations: type[SqlRevocationStore] = SqlRevocationStore,
) -> AsyncGenerator[Replica]:
    """A replica on a database, which is migrated and has alice in it."""
    engine = await open_migrated(url)
    try:
        rng, audit = SystemRng(), RecordingAudit()
        revision = open_revision(engine, url, clock, rng)
        try:
            async with writing(engine) as connection:
                await insert_if_absent(connection, users, **_alice(clock))
            settings = TokenSettings(
                ISSUER, tenant_resources(ISSUER, {"acme": {"files"}}), frozenset({"reports", "admin"})
            )
            sessions = Sessions(SqlSessionStore(engine), revision, lambda: _POLICY, audit, clock, rng)
            tokens = AccessTokens(settings, SqlUserStore(engine), sessions, LocalSigner(_KEY), audit, clock, rng)
            code_store: CodeStore = codes(engine)
            family_store: FamilyStore = grants(engine)
            revoker: Revoker = Revocations(revocations(engine))
            families = Families(family_store, tokens, revoker, audit, clock, rng, LIFESPANS)
            answers = RetryAnswers(LocalEnvelope(bytes(32), rng), rng)
            refresh = RefreshGrant(family_store, families, tokens, StubUpstreams(), answers, audit, clock, rng)
            yield Replica(
                engine,
                revision,
                Codes(code_store, rng, CODE_LIFETIME),
                families,
                CodeGrant(code_store, families),
                refresh,
                clock,
                audit,
            )
        finally:
            await revision.aclose()
    finally:
        await engine.dispose()


def _alice(clock: StepClock) -> dict[str, object]:
    return {
        "tenant": "acme",
        "subject": ALICE,
        "name": "alice",
        "display_name": "Alice",
        "roles": "[]",
        "groups": "[]",
        "password_hash": "",
        "provider": "",
        "disabled_at": None,
        "created_at": clock.now(),
        "last_login_at": None,
    }
