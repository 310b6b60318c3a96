"""What people have allowed clients, remembered, so that they are asked once and can take it back."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Protocol

import msgspec

from twogate.core.audit.record import AuditEvent, EventKind
from twogate.flows.audit import AuditSink
from twogate.flows.authserver.clients import Client, ClientAuth
from twogate.flows.environment import Clock


class Consent(msgspec.Struct, frozen=True):
    """What one person allowed one client at one resource, within one task; `task` is empty without one.

    `client_digest` names the client as it was then (`client_digest`). `granted_at` is Unix seconds.
    """

    tenant: str
    subject: str
    client_id: str
    resource: str
    task: str
    scopes: tuple[str, ...]
    client_digest: str
    granted_at: int


class ConsentStore(Protocol):
    """Keeps consents, one for each person, client, resource and task."""

    async def get(self, tenant: str, subject: str, client_id: str, resource: str, task: str) -> Consent | None:
        """The consent for exactly this.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def put(self, consent: Consent) -> None:
        """Keep a consent. Scopes of an earlier one stay allowed if the client is as it was then.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def withdraw(self, tenant: str, subject: str, client_id: str) -> int:
        """Forget all that a person allowed a client; how many consents that were.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def list_for_user(self, tenant: str, subject: str) -> Sequence[Consent]:
        """A person's consents, newest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Consents:
    """Remembers consents. `issuer` names the authorization server in audit events."""

    def __init__(self, store: ConsentStore, audit: AuditSink, clock: Clock, issuer: str) -> None:
        self._store = store
        self._audit = audit
        self._clock = clock
        self._issuer = issuer

    async def given(
        self, client: Client, subject: str, resource: str, task: str | None, scopes: Collection[str]
    ) -> bool:
        """Whether the person has allowed all of this to the client as it is now.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        found = await self._store.get(client.tenant, subject, client.client_id, resource, task or "")
        if found is None or found.client_digest != client_digest(client):
            return False
        return set(scopes) <= set(found.scopes)

    async def remember(
        self, client: Client, subject: str, resource: str, task: str | None, scopes: Collection[str], now: int
    ) -> None:
        """Keep what the person allows. The caller has put the decision on the audit trail.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        await self._store.put(
            Consent(
                tenant=client.tenant,
                subject=subject,
                client_id=client.client_id,
                resource=resource,
                task=task or "",
                scopes=tuple(sorted(set(scopes))),
                client_digest=client_digest(client),
                granted_at=now,
            )
        )

    async def withdraw(self, tenant: str, subject: str, client_id: str, address: str = "") -> int:
        """Forget all that a person allowed a client; how many consents that were. Its tokens live on: see `Families`.

        Raises:
            GateError: AUDIT_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        await self._audit.append(
            AuditEvent(
                kind=EventKind.CONSENT_WITHDRAWN,
                at=self._clock.now_us(),
                address=address,
                tenant=tenant,
                issuer=self._issuer,
                client=client_id,
                user_issuer=self._issuer,
                user=subject,
            )
        )
        return await self._store.withdraw(tenant, subject, client_id)

    async def list_for_user(self, tenant: str, subject: str) -> Sequence[Consent]:
        """A person's consents, newest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        return await self._store.list_for_user(tenant, subject)


def client_digest(client: Client) -> str:
    """Names a client as people know it and as it proves itself: its name, agent, redirect URIs, method and keys.

    Whoever allowed the client did not allow what answers to another key or sits at another address. The set behind a
    `jwks_uri` may change; its address may not. A secret may: nobody but the operator rotates it.
    """
    facts = (
        client.client_id,
        client.tenant,
        client.kind.value,
        None if client.agent is None else client.agent.agent,
        client.name,
        sorted(client.redirect_uris),
        client.auth.value,
        client.jwks,
        client.jwks_uri,
    )
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def must_ask(client: Client, *, https: bool) -> bool:
    """Whether a person is asked each time, whatever is remembered; `https`: the answer goes to a web address.

    "The authorization server SHOULD NOT process authorization requests automatically without user consent or
    interaction, except when the identity of the client can be assured" (RFC 8252 section 8.6): any program on the
    machine can listen there under this client's name.
    """
    return client.auth is ClientAuth.NONE and not https
