"""An MCP server over HTTP whose calls stay under way until a test lets them go."""

from __future__ import annotations

import asyncio
import json

from rawlab import Peer, http_answer


class HoldingServer:
    """Answers each call at once, except those of `hold…` tools, which it answers when released.

    The answer of `flood` is a stream without end; `flooded` counts its events.
    """

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.calls: list[str] = []
        self.flooded = 0

    async def serve(self, peer: Peer) -> None:
        """One connection; a `rawlab.Script`."""
        while True:
            request = await peer.request()
            message = json.loads(request.partition(b"\r\n\r\n")[2])
            tool = message["params"]["name"]
            self.calls.append(tool)
            if tool.startswith("hold"):
                await self.released.wait()
            if tool == "flood":
                await self._flood(peer)
            result = {"content": [{"type": "text", "text": f"{tool} done"}], "isError": False}
            await peer.send(http_answer(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()))

    async def _flood(self, peer: Peer) -> None:
        params = {"progressToken": "p", "progress": 1, "message": "x" * 60_000}
        note = json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}).encode()
        data = b"data: " + note + b"\n\n"
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            await peer.send(b"%x\r\n%b\r\n" % (len(data), data))
            self.flooded += 1

    @property
    def held(self) -> int:
        """How many calls of `hold…` tools arrived."""
        return len([tool for tool in self.calls if tool.startswith("hold")])
