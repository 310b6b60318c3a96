"""An MCP server over HTTP whose calls stay under way until a test lets them go."""

from __future__ import annotations

import asyncio
import json

from rawlab import Peer, http_answer


class HoldingServer:
    """Answers each call at once, except those of `hold…` tools, which it answers when released."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.calls: list[str] = []

    async def serve(self, peer: Peer) -> None:
        """One connection; a `rawlab.Script`."""
        while True:
            request = await peer.request()
            message = json.loads(request.partition(b"\r\n\r\n")[2])
            tool = message["params"]["name"]
            self.calls.append(tool)
            if tool.startswith("hold"):
                await self.released.wait()
            result = {"content": [{"type": "text", "text": f"{tool} done"}], "isError": False}
            await peer.send(http_answer(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()))

    @property
    def held(self) -> int:
        """How many calls of `hold…` tools arrived."""
        return len([tool for tool in self.calls if tool.startswith("hold")])
