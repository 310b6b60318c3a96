"""Protected resources: their names (RFC 8707) and what each says of itself (RFC 9728)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from twogate.core.jose.dpop import ALGORITHMS

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
SESSIONS_PATH: Final = "/sessions"
OPERATIONS_PATH: Final = "/operations"
TOKENS_PATH: Final = "/operations/tokens"
"""Where operation tokens are issued, to holders of a token for the resource `/operations`."""


def server_path(server: str) -> str:
    """The path of a server's MCP endpoint."""
    return f"/mcp/{server}"


def tenant_resources(public_url: str, tenants: Mapping[str, Collection[str]]) -> dict[str, frozenset[str]]:
    """The resources that each tenant's clients may get tokens for, from the servers that the tenant has."""
    return {
        tenant: frozenset({public_url + SESSIONS_PATH, *(public_url + server_path(server) for server in servers)})
        for tenant, servers in tenants.items()
    }


def resource_metadata(
    resource: str, authorization_servers: Collection[str], scopes_supported: Collection[str] = ()
) -> dict[str, object]:
    """The metadata document of a protected resource (RFC 9728 section 2).

    Raises:
        ValueError: no authorization server is named; nobody could ever get a token.
    """
    if not authorization_servers:
        raise ValueError("a protected resource names at least one authorization server")
    document: dict[str, object] = {
        "resource": resource,
        "authorization_servers": list(authorization_servers),
        "bearer_methods_supported": ["header"],
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
    }
    # A parameter without values is left out (RFC 9728 section 3.2).
    if scopes_supported:
        document["scopes_supported"] = sorted(scopes_supported)
    return document


def metadata_url(public_url: str, path: str) -> str:
    """Where the document of the resource `public_url + path` is served: the well-known part goes before the path.

    (RFC 9728 section 3.1.)
    """
    parts = urlsplit(public_url + path)
    return urlunsplit((parts.scheme, parts.netloc, WELL_KNOWN + parts.path, parts.query, ""))
