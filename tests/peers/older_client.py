"""A client on the first generation of the Python SDK: makes the tour that it reads, and prints what it met.

Run by the Python of `.venv-sqlite`. What a tour is, `peers/tour.py` says.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

# By name, since another generation is installed where this file is checked.
types: Any = importlib.import_module("mcp.types")
httpx: Any = importlib.import_module("httpx")
sse: Any = importlib.import_module("mcp.client.sse")
streamable_http: Any = importlib.import_module("mcp.client.streamable_http")
ClientSession: Any = importlib.import_module("mcp").ClientSession
McpError: Any = importlib.import_module("mcp").McpError


class Tourist:
    """Walks the tour, and keeps what the server sends and asks meanwhile."""

    def __init__(self, tour: dict[str, Any]) -> None:
        self.tour = tour
        self.asked: list[str] = []
        self.notified: list[str] = []
        self.progress: list[list[float]] = []
        self.session: Any = None

    async def sample(self, _: Any, params: Any) -> Any:
        self.asked.append("sampling/createMessage")
        text = types.TextContent(type="text", text=self.tour["sampled"])
        return types.CreateMessageResult(role="assistant", content=text, model="none")

    async def elicit(self, _: Any, params: Any) -> Any:
        self.asked.append("elicitation/create")
        return types.ElicitResult(action="accept", content=self.tour["elicited"])

    async def list_roots(self, _: Any) -> Any:
        self.asked.append("roots/list")
        return types.ListRootsResult(roots=[types.Root(uri=uri) for uri in self.tour["roots"]])

    async def notice(self, message: Any) -> None:
        # Progress comes to `on_progress`.
        if isinstance(message, types.ServerNotification) and message.root.method != "notifications/progress":
            self.notified.append(message.root.method)

    async def on_progress(self, done: float, total: float | None, _: str | None) -> None:
        self.progress.append([done, total or 0])

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Any]:
        trust = ssl.create_default_context(cafile=self.tour["ca"])
        url, authorized = self.tour["url"], {"authorization": f"Bearer {self.tour['token']}"}

        def client(
            headers: dict[str, str] | None = None, timeout: Any = self.tour["patience"], auth: Any = None
        ) -> Any:
            return httpx.AsyncClient(headers=headers, timeout=timeout, auth=auth, verify=trust, trust_env=False)

        if url.endswith("/sse"):
            async with sse.sse_client(url, headers=authorized, httpx_client_factory=client) as streams:
                yield streams
        else:
            async with (
                client(authorized) as http,
                streamable_http.streamable_http_client(url, http_client=http) as streams,
            ):
                yield streams

    async def walk(self) -> dict[str, Any]:
        types.LATEST_PROTOCOL_VERSION = self.tour["version"]
        async with (
            self.connected() as (read, write, *_),
            ClientSession(
                read, write, sampling_callback=self.sample, elicitation_callback=self.elicit,
                list_roots_callback=self.list_roots, message_handler=self.notice,
            ) as self.session,
        ):  # fmt: skip
            opened = await self.session.initialize()
            results = [await self.step(*step) for step in self.tour["steps"]]
            return {
                "version": opened.protocolVersion,
                "server": opened.serverInfo.name,
                "results": results,
                "asked": self.asked,
                "notified": self.notified,
                "progress": self.progress,
            }

    async def step(self, kind: str, *arguments: Any) -> Any:
        try:
            return await getattr(self, f"do_{kind}")(*arguments)
        except McpError as error:
            return {"code": error.error.code}

    async def do_tools(self) -> list[str]:
        return sorted(tool.name for tool in (await self.session.list_tools()).tools)

    async def do_prompts(self) -> list[str]:
        return sorted(prompt.name for prompt in (await self.session.list_prompts()).prompts)

    async def do_resources(self) -> list[str]:
        return sorted(str(resource.uri) for resource in (await self.session.list_resources()).resources)

    async def do_templates(self) -> list[str]:
        return sorted(one.uriTemplate for one in (await self.session.list_resource_templates()).resourceTemplates)

    async def do_call(self, tool: str, arguments: dict[str, Any]) -> Any:
        result = await self.session.call_tool(tool, arguments, progress_callback=self.on_progress)
        text = "".join(item.text for item in result.content if item.type == "text")
        return {"error": text} if result.isError else text

    async def do_read(self, uri: str) -> str:
        content = (await self.session.read_resource(uri)).contents[0]
        return str(content.text)

    async def do_prompt(self, name: str, arguments: dict[str, str]) -> str:
        message = (await self.session.get_prompt(name, arguments)).messages[0]
        return str(message.content.text)

    async def do_complete(self, prompt: str, argument: str, value: str) -> list[str]:
        reference = types.PromptReference(type="ref/prompt", name=prompt)
        done = await self.session.complete(reference, {"name": argument, "value": value})
        return list(done.completion.values)

    async def do_subscribe(self, uri: str) -> None:
        await self.session.subscribe_resource(uri)

    async def do_unsubscribe(self, uri: str) -> None:
        await self.session.unsubscribe_resource(uri)

    async def do_level(self, level: str) -> None:
        await self.session.set_logging_level(level)

    async def do_ping(self) -> None:
        await self.session.send_ping()

    async def do_notified(self, method: str) -> None:
        await self.until(lambda: method in self.notified, f"no {method} came")

    async def do_change_roots(self) -> None:
        """Tell that the roots changed, again and again, until the server asks for them."""
        before = len(self.asked)
        while "roots/list" not in self.asked[before:]:
            await self.session.send_roots_list_changed()
            deadline = time.monotonic() + 0.5
            while "roots/list" not in self.asked[before:] and time.monotonic() < deadline:
                await asyncio.sleep(0.02)

    async def until(self, check: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.tour["patience"]
        while not check():
            assert time.monotonic() < deadline, what
            await asyncio.sleep(0.02)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(Tourist(json.load(sys.stdin)).walk())))
