"""The composition of messages to people: the channels of the settings, and the clockwork that uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import structlog

from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.notify.secret_file import read_line
from twogate.adapters.notify.slack import SlackChannel
from twogate.adapters.notify.smtp import MailChannel, MailServer, Security
from twogate.adapters.notify.webhook import WebhookChannel, parse_secret
from twogate.config import Settings
from twogate.config.notify import ChannelSettings
from twogate.config.policy import configured_agents
from twogate.core.errors import GateError
from twogate.core.principal import AgentId, UserId
from twogate.flows.approvals.notices import Channel, ChannelError, Listener, NameOf, Notices
from twogate.flows.approvals.parked import Parking
from twogate.flows.approvals.sweep import Sweep
from twogate.flows.envelope import Envelope
from twogate.flows.environment import Clock
from twogate.state import State
from twogate.stores.sql.approvals import SqlParkedStore
from twogate.stores.sql.notices import SqlNoticeStore
from twogate.stores.sql.users import SqlUserStore

EVERY: Final = 2.0
"""Seconds between looks for what is due."""

GRACE: Final = 3.0
"""Seconds that messages under way have when the process ends; what is cut off is sent again by another one."""

log = structlog.get_logger("twogate")


def open_channel(settings: ChannelSettings, fetch: GuardedFetch, clock: Clock) -> Channel:
    """The channel of its settings. No file is read and nothing is connected yet."""
    if settings.slack is not None:
        return SlackChannel(settings.slack.url, fetch)
    if settings.webhook is not None:
        webhook = settings.webhook
        return WebhookChannel(webhook.url, webhook.secret, fetch, clock, webhook.ca)
    smtp = settings.smtp
    if smtp is None:
        raise ValueError("a channel needs a way")
    server = MailServer(smtp.host, smtp.port, Security(smtp.tls), smtp.user or "", smtp.password, smtp.ca)
    return MailChannel(server, smtp.sender, smtp.to, clock)


def listeners(settings: Settings, fetch: GuardedFetch, clock: Clock) -> Mapping[str, Listener]:
    """Every channel by its name."""
    return {
        name: Listener(open_channel(channel, fetch, clock), channel.kinds, frozenset(channel.tenants))
        for name, channel in settings.notify.items()
    }


def open_notices(state: State, settings: Settings, fetch: GuardedFetch, envelope: Envelope) -> Notices:
    """What tells people, under these settings."""
    parked = SqlParkedStore(state.engine)
    return Notices(
        SqlNoticeStore(state.engine),
        parked,
        Parking(parked, envelope, state.audit, state.clock, state.rng, settings.duties),
        listeners(settings, fetch, state.clock),
        name_of(state, settings.public_url),
        settings.public_url,
        state.audit,
        state.clock,
        state.rng,
    )


def open_sweep(state: State, settings: Settings, envelope: Envelope) -> Sweep:
    """What ends calls that wait for nothing any more, under these settings."""
    parked = SqlParkedStore(state.engine)
    parking = Parking(parked, envelope, state.audit, state.clock, state.rng, settings.duties)
    return Sweep(parking, parked, state.clock)


def name_of(state: State, issuer: str) -> NameOf:
    """What people are called: only our own server's have names here."""
    users = SqlUserStore(state.engine)

    async def find(tenant: str, user: UserId) -> str:
        found = await users.user(tenant, user.subject) if user.issuer == issuer else None
        return user.subject if found is None else found.label

    return find


def channel_problems(settings: Settings) -> Iterator[tuple[str, str]]:
    """The channels whose secrets cannot be used as they are now, and why."""
    for name, channel in settings.notify.items():
        try:
            if channel.slack is not None:
                read_line(channel.slack.url)
            elif channel.webhook is not None:
                parse_secret(channel.webhook.secret)
            elif channel.smtp is not None and channel.smtp.password is not None:
                read_line(channel.smtp.password)
        except ChannelError as error:
            yield name, str(error)


def asks_people(settings: Settings) -> bool:
    """Whether calls may have to wait for people."""
    tools = [settings.tools, *(tenant.tools for tenant in settings.tenants.values())]
    return bool(settings.notify) or any(tool.approvals for section in tools for tool in section.values())


class Clockwork:
    """Looks for what is due while the process serves, under whatever settings are current.

    Each channel has its own task: one that hangs holds up neither the others nor the looking. Calls are also ended that
    wait for nothing any more, whether or not the settings still let calls wait.
    """

    def __init__(
        self,
        state: State,
        settings: Callable[[], Settings],
        new_fetch: Callable[[Clock], GuardedFetch],
        envelope: Envelope,
    ) -> None:
        self._state = state
        self._settings = settings
        self._new_fetch = new_fetch
        self._envelope = envelope
        self._used: Settings | None = None
        self._notices: Notices | None = None
        self._sweep = open_sweep(state, state.settings, envelope)
        self._dropped: frozenset[AgentId] = frozenset()
        self._loop: asyncio.Task[None] | None = None
        self._delivering: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """Begin; needs a running event loop."""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop looking, and let messages under way end within GRACE."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            self._loop = None
        under_way = list(self._delivering.values())
        if under_way:
            _, late = await asyncio.wait(under_way, timeout=GRACE)
            for task in late:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def look(self) -> None:
        """One look: end what is over, plan what is due, and set to work every channel that has nothing to do."""
        notices = self._current()
        try:
            await self._sweep.run(self._dropped)
            self._dropped = frozenset()
        except GateError as error:
            log.warning("approvals_not_looked_at", reason=error.code.value)
            return
        if notices is None:
            return
        try:
            await notices.plan()
        except GateError as error:
            log.warning("notices_not_planned", reason=error.code.value)
            return
        for channel in notices.channels:
            if channel not in self._delivering:
                task = asyncio.get_running_loop().create_task(self._deliver(notices, channel))
                self._delivering[channel] = task

    async def _run(self) -> None:
        while True:
            # Whatever one look runs into, such as a row of a later version, must not be the end of all later ones.
            (failed,) = await asyncio.gather(self.look(), return_exceptions=True)
            if failed is not None:
                log.error("notices_look_failed", error=type(failed).__name__)
            await asyncio.sleep(EVERY)

    async def _deliver(self, notices: Notices, channel: str) -> None:
        try:
            await notices.deliver(channel)
        except GateError as error:
            log.warning("notices_not_delivered", channel=channel, reason=error.code.value)
        finally:
            del self._delivering[channel]

    def _current(self) -> Notices | None:
        settings = self._settings()
        if settings is not self._used:
            if self._used is not None:
                # Whom this process never knew may be another replica's, with newer settings.
                before, now = (frozenset(configured_agents(known)[0]) for known in (self._used, settings))
                self._dropped = (self._dropped | before) - now
            self._used = settings
            self._sweep = open_sweep(self._state, settings, self._envelope)
            fetch = self._new_fetch(self._state.clock)
            self._notices = (
                open_notices(self._state, settings, fetch, self._envelope) if asks_people(settings) else None
            )
        return self._notices
