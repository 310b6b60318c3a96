"""The lifespan of an application within ours (ASGI, "Lifespan Protocol")."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Event = MutableMapping[str, Any]
AsgiApp = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Event]], Callable[[Event], Awaitable[None]]], Awaitable[None]
]

LAST_SECONDS: Final = 5.0
"""How long it may take to return once it has said that it is stopped."""

log = logging.getLogger("twogate.asgi")


class LifespanError(Exception):
    """The application said that it could not start."""


class InnerLifespan:
    """Starts an application and stops it, both in one task, as context managers over task groups need it."""

    def __init__(self, app: AsgiApp) -> None:
        self._app = app
        self._state: dict[str, Any] = {}
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._answers: asyncio.Queue[Event] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> dict[str, Any]:
        """Start it; what it put into the state that every request of it gets.

        Raises:
            LifespanError: it could not start.
        """
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        self._task = asyncio.create_task(self._run(scope))
        answer = await self._ask("lifespan.startup")
        if answer is None:
            # "If an exception is raised when calling the application callable with a lifespan.startup message or a
            # scope of type lifespan, the server must continue but not send any lifespan events."
            error = None if self._task.cancelled() else self._task.exception()
            log.info("the application has no lifespan (%s)", type(error).__name__)
            self._task = None
        elif answer["type"] != "lifespan.startup.complete":
            await self._end()
            raise LifespanError(f"the application did not start: {answer.get('message', '')}")
        return self._state

    async def stop(self) -> None:
        """Stop it, if it was started and runs still."""
        if self._task is None:
            return
        answer = await self._ask("lifespan.shutdown")
        if answer is None:
            error = None if self._task.cancelled() else self._task.exception()
            log.error("the application failed at its end", exc_info=error)
        elif answer["type"] != "lifespan.shutdown.complete":
            log.error("the application did not end well: %s", answer.get("message", ""))
        await self._end()

    async def _run(self, scope: Event) -> None:
        await self._app(scope, self._events.get, self._answers.put)

    async def _ask(self, kind: str) -> Event | None:
        """Its answer; None if it ended without one."""
        if self._task is None or self._task.done():
            return None
        await self._events.put({"type": kind})
        answer = asyncio.ensure_future(self._answers.get())
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        return None if self._answers.empty() else self._answers.get_nowait()

    async def _end(self) -> None:
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=LAST_SECONDS)
            if not self._task.done():
                log.warning("the application does not end after its lifespan; it is cancelled")
                self._task.cancel()
            elif not self._task.cancelled() and self._task.exception() is not None:
                log.error("the application failed at its end", exc_info=self._task.exception())
            self._task = None
