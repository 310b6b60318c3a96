"""What answers the requests of one configuration generation, and what it still has under way (DESIGN decision 22)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from starlette.types import ASGIApp

from twogate.config import Settings
from twogate.flows.gateway.catalogue import Catalogue
from twogate.flows.gateway.issuers import KeySource
from twogate.flows.gateway.limit import AddressLimit, CallRates, UnderWay
from twogate.flows.gateway.upstream import Upstream
from twogate.web.gateway import PREFIX


@dataclass(frozen=True, eq=False)
class Generation:
    """The faces of one configuration, and the parts that the next generation may take over as they are.

    A request belongs to the generation that was current when it began, to its end. `authorities` are the digests of
    the CA files in use: a file that was replaced makes a new connection pool or key source. `superseded` is set when
    another takes its place, which ends its long-lived streams. `calls` counts what is under way on the data plane, by
    path.
    """

    settings: Settings
    gateway: ASGIApp
    control: ASGIApp
    limit: AddressLimit
    under_way: UnderWay
    rates: CallRates
    streams: UnderWay
    upstreams: Mapping[str, Upstream]
    keys: Mapping[str, KeySource]
    authorities: Mapping[Path, bytes]
    catalogue: Catalogue
    superseded: asyncio.Event
    calls: dict[str, int] = field(default_factory=dict[str, int])

    def begin(self, path: str) -> None:
        """Count a call of the data plane in."""
        self.calls[path] = self.calls.get(path, 0) + 1

    def end(self, path: str) -> None:
        """Count a call out."""
        count = self.calls[path] - 1
        if count:
            self.calls[path] = count
        else:
            del self.calls[path]

    def in_use(self) -> Iterator[Upstream]:
        """The servers' connections that a call under way may still need."""
        named = {path.removeprefix(PREFIX).partition("/")[0] for path in self.calls}
        # A path that names no server may lead to any of them.
        everything = not named <= self.upstreams.keys()
        for name, upstream in self.upstreams.items():
            if everything or name in named:
                yield upstream
