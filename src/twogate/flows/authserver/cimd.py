"""Clients whose id is the URL of the document that describes them, if an operator let that URL in (row R-22)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.core.oauth.cimd import (
    MAX_DOCUMENT,
    ClientIdUrl,
    DomainRule,
    best_rule,
    parse_client_id_url,
    parse_document,
)
from twogate.core.oauth.client_auth import AuthMethod
from twogate.core.oauth.client_metadata import ClientMetadata, invalid_metadata
from twogate.core.oauth.grant_type import GrantType
from twogate.core.principal import PUBLIC_CLIENT, AgentId
from twogate.flows.authserver.clients import Client, ClientAuth, ClientKind, ClientSource
from twogate.flows.authserver.remote_documents import FetchLimits, RemoteDocuments
from twogate.flows.environment import Clock
from twogate.flows.fetch import Fetch, Fetched, Trust

PUBLIC_GRANTS: Final = frozenset({GrantType.AUTHORIZATION_CODE, GrantType.REFRESH_TOKEN, GrantType.DEVICE_CODE})
"""What a client without an agent of its own may do, whatever its document asks for: act for people who log in."""

AGENT_GRANTS: Final = PUBLIC_GRANTS | {GrantType.CLIENT_CREDENTIALS, GrantType.TOKEN_EXCHANGE}
"""What one may do whose whole URL an operator bound to an agent."""


class Owner(msgspec.Struct, frozen=True):
    """Whose client a document is: its tenant, and the agent that an operator bound it to, if any."""

    tenant: str
    agent: AgentId | None = None


class AllowedDocuments(msgspec.Struct, frozen=True):
    """The allowlist: whole client ids, and domains. Empty: no document is ever fetched."""

    exact: Mapping[str, Owner]
    domains: Mapping[DomainRule, Owner]

    def owner(self, url: ClientIdUrl) -> tuple[Owner, str] | None:
        """Whose client this is, and the name of the entry that says so, the most specific one; None if none does."""
        if (owner := self.exact.get(url.text)) is not None:
            return owner, url.text
        rule = best_rule(self.domains, url)
        return None if rule is None else (self.domains[rule], f"{'*.' * rule.below}{rule.host}:{rule.port}")


class ClientDocuments:
    """Finds clients by their documents."""

    def __init__(self, allowed: AllowedDocuments, fetch: Fetch, limits: FetchLimits, clock: Clock) -> None:
        self._allowed = allowed
        self._documents = RemoteDocuments(
            fetch, limits, clock, max_bytes=MAX_DOCUMENT, judge=_judge, unavailable=_unavailable
        )

    async def find(self, unverified_client_id: str) -> Client | None:
        """The client of this id; None, without fetching anything, if nobody let it in.

        Raises:
            GateError: CLIENT_METADATA_INVALID with a description of what its developer must change; RATE_LIMITED.
        """
        try:
            url = parse_client_id_url(unverified_client_id)
        except ValueError:
            return None
        found = self._allowed.owner(url)
        if found is None:
            return None
        owner, entry = found
        metadata = await self._documents.get(url.text, trust=Trust.REQUESTED, budget=entry)
        return _client(url.text, metadata, owner)

    def budget(self, client: Client) -> str:
        """The allowlist entry that pays for fetching the client's keys."""
        found = self._allowed.owner(parse_client_id_url(client.client_id))
        return client.client_id if found is None else found[1]


def _judge(url: str, fetched: Fetched) -> ClientMetadata:
    return parse_document(fetched.body, fetched.content_type, url)


def _unavailable(reason: str) -> GateError:
    # Which address its host has, or why it was refused, is for the operator: a stranger could map networks by it.
    described = (
        "the document at client_id could not be fetched: it must be public, and answer 200 within 5 seconds, without a "
        f"redirect, with at most {MAX_DOCUMENT} bytes"
    )
    return GateError(ErrorCode.CLIENT_METADATA_INVALID, reason, data={"description": described})


def _client(client_id: str, metadata: ClientMetadata, owner: Owner) -> Client:
    with_keys = metadata.method is AuthMethod.PRIVATE_KEY_JWT
    if owner.agent is not None and not with_keys:
        raise invalid_metadata("token_endpoint_auth_method must be private_key_jwt: this client is an agent")
    grants = metadata.grants & (PUBLIC_GRANTS if owner.agent is None else AGENT_GRANTS)
    if not grants - {GrantType.REFRESH_TOKEN}:
        raise invalid_metadata("grant_types must have authorization_code")
    return Client(
        client_id=client_id,
        tenant=owner.tenant,
        agent=owner.agent or AgentId(owner.tenant, PUBLIC_CLIENT),
        auth=ClientAuth.PRIVATE_KEY_JWT if with_keys else ClientAuth.NONE,
        jwks=metadata.jwks,
        kind=ClientKind.PUBLIC if owner.agent is None else ClientKind.AGENT,
        grants=grants,
        name=metadata.name,
        redirect_uris=metadata.redirect_uris,
        jwks_uri=metadata.jwks_uri,
        source=ClientSource.DOCUMENT,
    )
