"""Reads one large answer slowly, and prints how much there was and by how many KiB its memory peak grew meanwhile."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from twogate.adapters.upstream.http import HttpUpstream
from twogate.core.principal import PrincipalKey
from twogate.flows.gateway.upstream import UpstreamRequest


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


async def main(url: str, form: str) -> None:
    upstream = HttpUpstream(url)
    owner = PrincipalKey("acme", "https://issuer.example", "reporter", None)
    request = UpstreamRequest(owner, "POST", (), b"{}", None, False, 30.0, stream=form == "stream")
    before, received, turns = peak(), 0, 0
    answer = await upstream.send(request)
    async for chunk in answer.chunks():
        received += len(chunk)
        turns += 1
        if turns % 20 == 0:
            await asyncio.sleep(0.02)
    await answer.aclose()
    await upstream.aclose()
    sys.stdout.write(f"{received} {peak() - before}")


asyncio.run(main(*sys.argv[1:]))
