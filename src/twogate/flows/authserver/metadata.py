"""The public documents by which clients find their way: RFC 8414 for the server, RFC 9728 for each resource.

Clients of OpenID Connect Discovery find the server's under their own name too. Both lie at the addresses of an issuer
without a path, and nowhere else: at `/.well-known/oauth-authorization-server/mcp/files` a client looks for the metadata
of an issuer `{public_url}/mcp/files`, which "MUST be identical" to the one inside (RFC 8414 section 3.3). The official
SDK breaks off where another issuer's document lies, and goes on to the next address where there is none.

They change with the configuration only, so each is built once.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from twogate.core.oauth.metadata import ServerFaces, authorization_server_metadata, openid_metadata
from twogate.core.oauth.resource import resource_metadata
from twogate.flows.authserver.jwks import jwks_document


class PublicDocuments(msgspec.Struct, frozen=True):
    """Every document as JSON; `resources` maps a resource's path (`/mcp/files`) to its own.

    `authorization_server` and `openid` are None where the embedded server is not in use: it must not be advertised.
    """

    authorization_server: bytes | None
    openid: bytes | None
    jwks: bytes
    resources: Mapping[str, bytes]


NOTHING: Final = ServerFaces()


def build_documents(
    issuer: str,
    keys: Collection[Mapping[str, str]],
    resources: Collection[str],
    authorization_servers: Collection[str],
    scopes: Collection[str],
    faces: ServerFaces = NOTHING,
) -> PublicDocuments:
    """Build the documents of one configuration. `resources` are the full names of all of them, of every tenant.

    The embedded server is in use exactly if `issuer` is among `authorization_servers`; `faces` is what it has.

    Raises:
        ValueError: no authorization server, an issuer with a path, or a resource that does not lie under it.
    """
    if urlsplit(issuer).path:
        raise ValueError(f"{issuer!r} has a path; all well-known addresses here are those of an origin")
    documents: dict[str, bytes] = {}
    for resource in resources:
        if not resource.startswith(issuer + "/"):
            raise ValueError(f"resource {resource!r} does not lie under {issuer!r}")
        document = resource_metadata(resource, authorization_servers, scopes)
        documents[resource.removeprefix(issuer)] = msgspec.json.encode(document)
    own = openid = None
    if issuer in authorization_servers:
        own = msgspec.json.encode(authorization_server_metadata(issuer, scopes, faces))
        openid = msgspec.json.encode(openid_metadata(issuer, scopes, faces))
    return PublicDocuments(own, openid, jwks_document(keys), documents)
