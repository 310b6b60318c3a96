"""The tools and prompts of each server as each tenant's credential sees them.

They are asked for by the gateway itself, and kept for a while. Used to check what a call says about itself
(`param_headers`) and what it calls (`tool_check`). It belongs to one configuration generation: with the next one
everything is asked anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Protocol

import msgspec

from twogate.core.errors import ErrorCode, GateError
from twogate.flows.environment import Clock
from twogate.flows.gateway.catalogue_fetch import PROMPTS, TOOLS, Offer, fetch_offer, fetch_prompts, fetch_tools
from twogate.flows.gateway.tool_list import ToolList
from twogate.flows.gateway.upstream import Upstream

MAX_AGE: Final = 300.0
"""Seconds after which no list is used any more, whatever the server says and whether it can be asked or not."""

MIN_AGE: Final = 10.0
"""Seconds that a list is used at least, even if the server vouches for less: servers say 0 unless told otherwise.

Whoever finds that a list does not fit a call has it asked for anew at once, so a short life would serve nobody.
"""

AHEAD: Final = 0.75
"""The part of a list's life after which it is asked for anew while the old one is still used: no steady load waits."""

PAUSE: Final = 1.0
"""Seconds between two askings of one server for one tenant, whatever callers and the server do."""


class Served(Protocol):
    """A configured server, as far as it matters here; `timeout` is how many seconds it may be silent."""

    @property
    def upstream(self) -> Upstream:
        """The way to it."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds."""
        ...


class _Entry(msgspec.Struct):
    listed: ToolList | None = None
    fetched_at: float = 0.0
    life: float = 0.0
    changed: bool = False
    began_at: float | None = None
    task: asyncio.Task[None] | None = None
    failure: GateError | None = None


class Catalogue:
    """Every server's tools and prompts, by tenant. The caller has made sure that the tenant may reach the server."""

    def __init__(self, servers: Mapping[str, Served], clock: Clock) -> None:
        self._servers = servers
        self._clock = clock
        self._entries: dict[tuple[str, str, str], _Entry] = {}
        self._closed = False
        self._offering: set[tuple[str, str]] = set()

    async def tools(self, tenant: str, server: str, *, newer_than: ToolList | None = None) -> ToolList:
        """The tools of a server. `newer_than` is a list that did not fit: another one, unless it was just asked for.

        A list is asked for when there is none, when its life is over, when the server said that it changed, and when
        it did not fit; by one asking for all who wait, and at most every `PAUSE` seconds. If that fails, the list
        before serves until it is `MAX_AGE` old.

        Raises:
            GateError: UPSTREAM_UNAVAILABLE; what was about to be called was not.
        """
        return await self._listed(tenant, server, TOOLS, newer_than)

    async def prompts(self, tenant: str, server: str, *, newer_than: ToolList | None = None) -> ToolList:
        """As `tools`, of its prompts.

        Raises:
            GateError: as `tools`.
        """
        return await self._listed(tenant, server, PROMPTS, newer_than)

    async def offer(self, tenant: str, server: str) -> Offer:
        """Everything that a server shows now, asked anew and kept nowhere: for a person who compares.

        Raises:
            GateError: RATE_LIMITED while it is being asked for this tenant; UPSTREAM_UNAVAILABLE, UPSTREAM_TIMEOUT,
                UPSTREAM_BROKEN, UPSTREAM_INVALID.
        """
        if (tenant, server) in self._offering or self._closed:
            raise GateError(ErrorCode.RATE_LIMITED, f"{server} is being asked", data={"wait": 1})
        self._offering.add((tenant, server))
        try:
            served = self._servers[server]
            return await fetch_offer(served.upstream, tenant, served.timeout)
        finally:
            self._offering.discard((tenant, server))

    async def _listed(self, tenant: str, server: str, what: str, newer_than: ToolList | None) -> ToolList:
        entry = self._entries.get((tenant, server, what))
        if entry is None:
            entry = self._entries[tenant, server, what] = _Entry()
        listed, now = entry.listed, self._clock.monotonic()
        age = now - entry.fetched_at
        if listed is None or entry.changed or listed is newer_than or age >= entry.life:
            return await self._asked(tenant, server, what, entry, now)
        if age >= entry.life * AHEAD:
            self._ask(tenant, server, what, entry, now)
        return listed

    def note_changed(self, server: str) -> None:
        """Take note that the server said its lists changed, to whomever: they are asked for before their next use."""
        for (_, name, _), entry in self._entries.items():
            if name == server:
                entry.changed = True

    async def aclose(self) -> None:
        """End what is being asked. Nothing can be had afterwards."""
        self._closed = True
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _asked(self, tenant: str, server: str, what: str, entry: _Entry, now: float) -> ToolList:
        task = self._ask(tenant, server, what, entry, now)
        if task is not None:
            # Waited for, not awaited: the others must get their answer though this caller goes away.
            await asyncio.wait({task})
            if not task.cancelled():
                task.result()
        if entry.listed is None or self._clock.monotonic() - entry.fetched_at >= MAX_AGE:
            reason = "the gateway is closing" if entry.failure is None else str(entry.failure)
            if entry.failure is not None and entry.failure.code is ErrorCode.SECRET_UNAVAILABLE:
                raise GateError(ErrorCode.SECRET_UNAVAILABLE, entry.failure.debug)
            raise GateError(ErrorCode.UPSTREAM_UNAVAILABLE, f"the {what} of {server} cannot be listed: {reason}")
        return entry.listed

    def _ask(self, tenant: str, server: str, what: str, entry: _Entry, now: float) -> asyncio.Task[None] | None:
        """The asking under way, or a new one; None if the last one is too short ago."""
        if entry.task is None and not self._closed and (entry.began_at is None or now - entry.began_at >= PAUSE):
            entry.began_at = now
            entry.task = asyncio.get_running_loop().create_task(self._fetch(tenant, self._servers[server], what, entry))
        return entry.task

    async def _fetch(self, tenant: str, served: Served, what: str, entry: _Entry) -> None:
        # Cleared before, not after: what changes during the asking may be missing in its answer.
        changed, entry.changed = entry.changed, False
        # After a failure nothing is taken for granted, not even how to ask.
        era = None if entry.listed is None or entry.failure is not None else entry.listed.era
        try:
            fetch = fetch_tools if what == TOOLS else fetch_prompts
            entry.listed = await fetch(served.upstream, tenant, served.timeout, era)
        except GateError as error:
            entry.failure = error
            entry.changed = entry.changed or changed
            if error.code is ErrorCode.SECRET_UNAVAILABLE:
                # Nothing was sent, so there is nobody to be spared; and a secret may be there the next moment.
                entry.began_at = None
            return
        finally:
            entry.task = None
        entry.failure = None
        entry.fetched_at = self._clock.monotonic()
        lifetime = entry.listed.lifetime
        entry.life = MAX_AGE if lifetime is None else min(MAX_AGE, max(MIN_AGE, lifetime))
