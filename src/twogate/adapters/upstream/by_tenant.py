"""An HTTP server over connections that belong to one tenant each (R-36)."""

from __future__ import annotations

import asyncio
from typing import Final

from twogate.adapters.upstream.duplex_mailbox import FixedAnswer
from twogate.adapters.upstream.http import HttpUpstream
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.gateway.upstream import UpstreamAnswer, UpstreamRequest

# To a notification that no server is told of: see `UpstreamRequest.unattributed`.
_ACCEPTED: Final = FixedAnswer(202)


class TenantConnections:
    """Implements `flows.gateway.upstream.Upstream`. What one tenant does with its connections costs no other any.

    The bounds of `HttpUpstreamLimits` hold for each tenant. There are as many as are configured, so what strangers name
    makes no connections.
    """

    def __init__(self, model: HttpUpstream) -> None:
        """`model` is what each tenant's is like; nothing is sent over it."""
        self._model = model
        self._by_tenant: dict[str, HttpUpstream] = {}
        self._closed = False

    async def send(self, request: UpstreamRequest) -> UpstreamAnswer:
        """See `Upstream.send`.

        Raises:
            GateError: as `Upstream.send`.
        """
        if request.unattributed:
            return _ACCEPTED
        tenant = request.owner.tenant
        own = self._by_tenant.get(tenant)
        if own is None:
            if self._closed:
                raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, "Twogate is closing the connections to this server")
            own = self._by_tenant[tenant] = self._model.apart()
        return await own.send(request)

    async def aclose(self) -> None:
        """See `Upstream.aclose`."""
        self._closed = True
        await asyncio.gather(*(own.aclose() for own in self._by_tenant.values()))
