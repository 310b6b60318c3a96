"""Where clients are found: the configuration, the store, or the document that a client's id points at."""

from __future__ import annotations

from twogate.flows.authserver.clients import Client, ClientStore


class Directory:
    """Implements `clients.ClientDirectory`."""

    def __init__(self, store: ClientStore) -> None:
        self._store = store

    async def find(self, unverified_client_id: str, now: int) -> Client | None:
        """The client of this id as of now; None if there is none, or if it has expired.

        Raises:
            GateError: STORE_UNAVAILABLE.
        """
        client = await self._store.get(unverified_client_id)
        if client is not None and client.expires_at is not None and now >= client.expires_at:
            return None
        return client

    async def jwks(self, client: Client, unverified_kid: str | None, now: int) -> str | None:  # noqa: ARG002 - see E
        """The client's public keys as a JWK set; None if it has none."""
        return client.jwks
