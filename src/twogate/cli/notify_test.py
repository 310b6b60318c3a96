"""Trying the channels of `notify`, for `twogate approval notify-test`."""

from __future__ import annotations

import asyncio

import msgspec

from twogate.adapters.clock import SystemClock
from twogate.adapters.fetch import GuardedFetch
from twogate.adapters.rng import SystemRng
from twogate.config import Settings
from twogate.flows.approvals.notices import ChannelError, trial
from twogate.notices import open_channel


class Tried(msgspec.Struct, frozen=True):
    """How one channel did; `problem` is empty if it took the message."""

    channel: str
    way: str
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether it took it."""
        return not self.problem

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return msgspec.structs.asdict(self)


def try_channels(settings: Settings, only: str | None) -> list[Tried]:
    """Send a test message to every channel, or to one, at the same time."""

    async def run() -> list[Tried]:
        names = [name for name in settings.notify if only in (None, name)]
        return list(await asyncio.gather(*(_try(settings, name) for name in names)))

    return asyncio.run(run())


async def _try(settings: Settings, name: str) -> Tried:
    chosen, clock = settings.notify[name], SystemClock()
    tenant = next(iter(chosen.tenants or settings.tenants))
    notice = trial(name, tenant, settings.public_url, clock.now(), SystemRng().token(8).hex())
    try:
        await open_channel(chosen, GuardedFetch(clock), clock).send(notice)
    except ChannelError as error:
        return Tried(name, chosen.way, str(error))
    return Tried(name, chosen.way)
