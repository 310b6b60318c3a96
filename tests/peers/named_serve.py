"""`twogate`, but some host names lead to loopback ports: `named_serve.py HOST=PORT… -- serve --config FILE`.

Documents of clients are fetched from public addresses only, and tests have none. So this composition has a resolver of
its own, which gives the names a public address, and a network in which that address is this machine. Everything between
the two is the real thing: judging addresses, TLS with the host's name, the caps.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import httpcore2

import twogate.app
from twogate.adapters.fetch import GuardedFetch
from twogate.cli.main import run
from twogate.flows.environment import Clock
from twogate.state import State

PUBLIC = "93.184.215.14"


class Network(httpcore2.AsyncNetworkBackend):
    """Where the one public address is a port of this machine, by the host's name."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._real = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2 calls it so
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        del local_address, socket_options
        if (host, port) != (PUBLIC, 443):
            raise httpcore2.ConnectError(f"{host} is not of this network")
        return await self._real.connect_tcp("127.0.0.1", self._port, timeout)


def main(name: str, port: int) -> None:
    """Run the command line with this name in the world."""
    build_app = twogate.app.build_app

    async def resolve(host: str, _: int) -> Sequence[str]:
        if host != name:
            raise OSError(f"{host} does not resolve")
        return [PUBLIC]

    def new_fetch(clock: Clock) -> GuardedFetch:
        return GuardedFetch(clock, resolve=resolve, network=Network(port))

    def build_named(state: State) -> twogate.app.Application:
        return build_app(state, new_fetch)

    twogate.app.build_app = build_named  # type: ignore[assignment] # the command takes it from there
    run()


if __name__ == "__main__":
    known, end = sys.argv[1], sys.argv.index("--")
    sys.argv[1 : end + 1] = []
    main(known.partition("=")[0], int(known.partition("=")[2]))
