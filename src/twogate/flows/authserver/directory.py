"""Where clients are found: the configuration, the store, or the document that a client's id points at."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from twogate.core import strict_json
from twogate.core.errors import ErrorCode, GateError
from twogate.core.jose.keys import parse_jwks
from twogate.core.oauth.cimd import is_client_id_url
from twogate.core.oauth.client_metadata import check_keys
from twogate.flows.authserver.cimd import ClientDocuments
from twogate.flows.authserver.clients import Client, ClientSource, ClientStore
from twogate.flows.authserver.remote_documents import FetchLimits, RemoteDocuments
from twogate.flows.environment import Clock
from twogate.flows.fetch import Fetch, Fetched, Trust

MAX_JWKS: Final = 16 * 1024
"""Bytes of a client's key set."""

_MAX_DEPTH: Final = 8


class ClientKeys:
    """Clients' keys by `jwks_uri`, fetched when they are needed."""

    def __init__(self, fetch: Fetch, limits: FetchLimits, clock: Clock) -> None:
        self._documents = RemoteDocuments(
            fetch, limits, clock, max_bytes=MAX_JWKS, judge=_judge_keys, unavailable=_keys_unavailable
        )

    async def get(self, url: str, trust: Trust, budget: str, unverified_kid: str | None) -> str:
        """The JWK set at a URL; fetched again, at a limited rate, when none of its keys has this `kid`.

        Raises:
            GateError: KEYS_UNAVAILABLE, RATE_LIMITED.
        """

        def lacks(jwks: str) -> bool:
            return unverified_kid is not None and all(key.kid != unverified_kid for key in parse_jwks(jwks.encode()))

        return await self._documents.get(url, trust=trust, budget=budget, lacks=lacks)


class Directory:
    """Implements `clients.ClientDirectory`.

    Args:
        store: Clients that commands added, and registered ones.
        configured: Clients that the configuration declares, by id.
        documents: Clients by metadata document; None if none are let in.
        keys: Keys by `jwks_uri`; None if no client could have one.
    """

    def __init__(
        self,
        store: ClientStore,
        configured: Mapping[str, Client] | None = None,
        documents: ClientDocuments | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        self._store = store
        self._configured = configured or {}
        self._documents = documents
        self._keys = keys

    async def find(self, unverified_client_id: str, now: int) -> Client | None:
        """The client of this id as of now; None if there is none, or if it has expired.

        Raises:
            GateError: CLIENT_METADATA_INVALID if the client's own document is wrong; RATE_LIMITED if too many
                documents are being fetched; STORE_UNAVAILABLE.
        """
        # At the start no id was in two places; should that change, the configuration wins.
        if (client := self._configured.get(unverified_client_id)) is not None:
            return client
        if is_client_id_url(unverified_client_id):
            return None if self._documents is None else await self._documents.find(unverified_client_id)
        client = await self._store.get(unverified_client_id)
        if client is not None and client.expires_at is not None and now >= client.expires_at:
            return None
        return client

    async def jwks(self, client: Client, unverified_kid: str | None, now: int) -> str | None:  # noqa: ARG002 - port
        """The client's public keys as a JWK set, fetched if need be; None if it has none.

        Raises:
            GateError: KEYS_UNAVAILABLE, RATE_LIMITED.
        """
        if client.jwks is not None or client.jwks_uri is None:
            return client.jwks
        if self._keys is None:
            raise GateError(ErrorCode.KEYS_UNAVAILABLE, "no keys are fetched here")
        # Only an operator's own word may lead to an internal address.
        if client.source is ClientSource.CONFIGURED:
            trust, budget = Trust.CONFIGURED, f"client {client.client_id}"
        else:
            trust = Trust.REQUESTED
            budget = client.client_id if self._documents is None else self._documents.budget(client)
        return await self._keys.get(client.jwks_uri, trust, budget, unverified_kid)


async def check_clients(store: ClientStore, configured: Collection[str]) -> None:
    """See that configuration and store do not define the same client (DESIGN decision 1).

    Raises:
        GateError: REQUEST_MALFORMED, naming one that is defined twice; STORE_UNAVAILABLE.
    """
    for client_id in await store.existing(configured):
        raise GateError(
            ErrorCode.REQUEST_MALFORMED,
            f"client {client_id} is declared in the configuration and was added by a command too; rename one",
        )


def _judge_keys(url: str, fetched: Fetched) -> str:  # noqa: ARG001 - as RemoteDocuments asks
    try:
        return check_keys(strict_json.decode(fetched.body, max_bytes=MAX_JWKS, max_depth=_MAX_DEPTH))
    except ValueError as error:
        raise GateError(ErrorCode.KEYS_UNAVAILABLE, f"the key set {error}") from None
    except GateError as error:
        raise GateError(ErrorCode.KEYS_UNAVAILABLE, f"the key set is not JSON: {error.code}") from None


def _keys_unavailable(reason: str) -> GateError:
    return GateError(ErrorCode.KEYS_UNAVAILABLE, reason)
