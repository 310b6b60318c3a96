"""Removing a client, with everything that it holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from twogate.core.principal import Binding, Method
from twogate.flows.authserver.clients import Client, ClientStore
from twogate.flows.authserver.families import Family
from twogate.flows.authserver.revocations import RevocationKind, outlasts_tokens

UNDER_WAY: Final = 60
"""Seconds within which a request that had found the client still ends, perhaps with a token."""


class ClientFamilies(Protocol):
    """What removing needs of the store of grant families; `families.FamilyStore` has it."""

    async def list_alive(self, now: int, **owner: str) -> Sequence[Family]:
        """Families alive at `now` of the `client_id`.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...

    async def revoke(self, grant_id: str, now: int) -> bool:
        """End a family; False if it was ended or there is none.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class Revoker(Protocol):
    """Takes access tokens back; `revocations.Revocations` does."""

    async def revoke(self, kind: RevocationKind, value: str, until: int, now: int) -> None:
        """Refuse every token of `value` from the next request on, until `until`.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        ...


class ClientRemoval:
    """Takes clients away. `issuer` is how bindings name this server."""

    def __init__(self, issuer: str, clients: ClientStore, families: ClientFamilies, revoker: Revoker) -> None:
        self._issuer = issuer
        self._clients = clients
        self._families = families
        self._revoker = revoker

    async def remove(self, client: Client, now: int) -> bool:
        """Remove a client: its access tokens are refused from the next request on, and it gets no others.

        The caller wrote it down before. False if it was gone already.

        Raises:
            GateError: STORE_UNAVAILABLE; then do it again, whatever was done stays done.
        """
        # The client goes first: what it could still be given after the rest was taken back would be missed.
        removed = await self._clients.remove(client.client_id, [Binding(Method.JWT, self._issuer, client.client_id)])
        await self._revoker.revoke("client", client.client_id, outlasts_tokens(now + UNDER_WAY), now)
        for family in await self._families.list_alive(now, client_id=client.client_id):
            await self._families.revoke(family.id, now)
        return removed
