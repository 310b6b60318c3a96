"""Servers that want a credential of the calling tenant's, as upstreams (R-36).

Whose secret it is follows from the `owner` of what is sent, which every part of the gateway sets: calls, streams, what
ends a session, what answers a server, and the asking for tools. Without a secret nothing is sent.
"""

from __future__ import annotations

import msgspec

from twogate.adapters.upstream.duplex import DuplexUpstream
from twogate.adapters.upstream.http_origin import Header
from twogate.core.errors import GateError
from twogate.flows.gateway.upstream import Upstream, UpstreamAnswer, UpstreamRequest
from twogate.flows.secrets import Secret, TenantSecrets


class HeaderSecrets:
    """A server's credential as a header: `scheme`, if it is not empty, and the tenant's secret."""

    def __init__(self, secrets: TenantSecrets, server: str, header: str, scheme: str) -> None:
        """`header` and `scheme` are as `config.secrets.HeaderCredential` lets them be."""
        self._secrets = secrets
        self._server = server
        self._name = header.encode("ascii")
        self._before = f"{scheme} " if scheme else ""

    async def of(self, tenant: str) -> Header:
        """The header of a tenant's requests, as of now.

        Raises:
            GateError: SECRET_UNAVAILABLE.
        """
        secret = await self._secrets.of(tenant, self._server)
        return self._name, (self._before + secret.value).encode("ascii")


class CredentialedUpstream:
    """An HTTP server whose every request brings the header of its owner's tenant; implements `Upstream`."""

    def __init__(self, inner: Upstream, headers: HeaderSecrets) -> None:
        self._inner = inner
        self._headers = headers

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        """See `Upstream.send`.

        Raises:
            GateError: SECRET_UNAVAILABLE (nothing was sent); as `Upstream.send`.
        """
        header = await self._headers.of(request.owner.tenant)
        return await self._inner.send(msgspec.structs.replace(request, headers=(*request.headers, header)))

    async def aclose(self) -> None:
        """See `Upstream.aclose`."""
        await self._inner.aclose()


class RenewedUpstream:
    """A server on links that are opened with their tenant's secret; implements `Upstream`.

    With another secret than before, what is sent goes over new links. With none, the links that had one end.
    """

    def __init__(self, inner: DuplexUpstream, secrets: TenantSecrets, server: str) -> None:
        self._inner = inner
        self._secrets = secrets
        self._server = server
        self._last: dict[str, Secret] = {}

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        """See `Upstream.send`.

        Raises:
            GateError: SECRET_UNAVAILABLE (nothing was sent); as `Upstream.send`.
        """
        tenant = request.owner.tenant
        try:
            secret = await self._secrets.of(tenant, self._server)
        except GateError:
            if self._last.pop(tenant, None) is not None:
                self._inner.renew(tenant)
            raise
        before = self._last.get(tenant)
        if before is not secret:
            self._last[tenant] = secret
            if before is not None and before.value != secret.value:
                self._inner.renew(tenant)
        return await self._inner.send(request)

    async def aclose(self) -> None:
        """See `Upstream.aclose`."""
        await self._inner.aclose()
