"""The access that people gave to applications: what it is now, and taking it back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from twogate.core.shown import shown
from twogate.flows.authserver.clients import ClientDirectory, ClientSource
from twogate.flows.authserver.consent import Consent
from twogate.flows.authserver.families import Family
from twogate.flows.authserver.people import User


class Grants(Protocol):
    """What people granted; `families.Families` does."""

    async def list_for_user(self, tenant: str, subject: str, now: int) -> Sequence[Family]:
        """A person's grants that are alive, newest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def revoke(self, grant_id: str, now: int, reason: str) -> bool:
        """End a grant; on the audit trail first.

        Raises:
            GateError: AUDIT_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        ...


class RememberedConsents(Protocol):
    """What people allowed; `consent.Consents` does."""

    async def list_for_user(self, tenant: str, subject: str) -> Sequence[Consent]:
        """A person's consents, newest first.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def withdraw(self, tenant: str, subject: str, client_id: str, address: str = "") -> int:
        """Forget all that a person allowed a client; on the audit trail first.

        Raises:
            GateError: AUDIT_UNAVAILABLE, STORE_UNAVAILABLE.
        """
        ...


class Unredeemed(Protocol):
    """What people allowed that is no grant yet: codes and device codes on their way; their stores keep them."""

    async def forget(self, tenant: str, subject: str, client_id: str) -> None:
        """Forget what a person gave to a client and it has not redeemed.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Access(msgspec.Struct, frozen=True):
    """An application that a person gave access to. Times are Unix seconds; None where it only has a consent.

    `active`: it has a grant that is alive. Without one it could get the same again without asking.
    """

    client_id: str
    name: str
    resources: tuple[str, ...]
    scopes: tuple[str, ...]
    tasks: tuple[str, ...]
    since: int
    last_used_at: int | None
    active: bool


class GivenAccess:
    """Lists and withdraws access."""

    def __init__(
        self,
        grants: Grants,
        consents: RememberedConsents,
        directory: ClientDirectory,
        unredeemed: Sequence[Unredeemed],
    ) -> None:
        self._grants = grants
        self._consents = consents
        self._directory = directory
        self._unredeemed = unredeemed

    async def list(self, user: User, now: int) -> tuple[Access, ...]:
        """What a person gave access to, by name.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        families = await self._grants.list_for_user(user.tenant, user.subject, now)
        consents = await self._consents.list_for_user(user.tenant, user.subject)
        ids = {family.authorization.client_id for family in families} | {consent.client_id for consent in consents}
        found = [
            _access(
                client_id,
                await self._name(client_id, now),
                [family for family in families if family.authorization.client_id == client_id],
                [consent for consent in consents if consent.client_id == client_id],
            )
            for client_id in ids
        ]
        return tuple(sorted(found, key=lambda access: (access.name.casefold(), access.client_id)))

    async def _name(self, client_id: str, now: int) -> str:
        # The page must not wait for other hosts: a client by document is shown by its address.
        if client_id.startswith("https://"):
            return shown(client_id)
        client = await self._directory.find(client_id, now)
        known = client is not None and client.source is not ClientSource.REGISTERED
        label = client_id if client is None else client.label
        # Anybody may register under any name, so the id stands beside it.
        return shown(label) if known or label == client_id else f"{shown(label)} ({shown(client_id)})"

    async def withdraw(self, user: User, client_id: str, now: int, address: str) -> None:
        """Take back all access that a person gave to an application: its tokens, and what would give it new ones.

        Raises:
            GateError: STORE_UNAVAILABLE, AUDIT_UNAVAILABLE.
        """
        consents = await self._consents.list_for_user(user.tenant, user.subject)
        families = await self._grants.list_for_user(user.tenant, user.subject, now)
        clients = {consent.client_id for consent in consents} | {one.authorization.client_id for one in families}
        # First what would let it get new tokens without asking. What is no client of theirs may be any text at all,
        # which the trail must not take.
        if client_id in clients:
            await self._consents.withdraw(user.tenant, user.subject, client_id, address)
        # Then what would become a grant after those that there are now were counted.
        for store in self._unredeemed:
            await store.forget(user.tenant, user.subject, client_id)
        for family in await self._grants.list_for_user(user.tenant, user.subject, now):
            if family.authorization.client_id == client_id:
                await self._grants.revoke(family.id, now, "withdrawn by the person")


def _access(client_id: str, name: str, families: Sequence[Family], consents: Sequence[Consent]) -> Access:
    granted = [family.authorization for family in families]
    scopes = {scope for one in granted for scope in one.scopes} | {
        scope for consent in consents for scope in consent.scopes
    }
    times = [*(family.created_at for family in families), *(consent.granted_at for consent in consents)]
    used = [family.last_used_at for family in families]
    tasks = {one.task for one in granted if one.task} | {consent.task for consent in consents if consent.task}
    return Access(
        client_id=client_id,
        name=name,
        resources=tuple(sorted({one.resource for one in granted} | {consent.resource for consent in consents})),
        scopes=tuple(sorted(scopes)),
        tasks=tuple(sorted(tasks)),
        since=min(times),
        last_used_at=max(used, default=None),
        active=bool(families),
    )
