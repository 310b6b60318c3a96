"""Opening what the setting `shared` names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from twogate.config import Settings
from twogate.config.shared_url import SQL, shared_address
from twogate.core.errors import ErrorCode, GateError
from twogate.flows.authserver.clients import ReplayStore
from twogate.flows.environment import Clock, Rng
from twogate.flows.gateway.limit import SharedBuckets


@dataclass(frozen=True)
class Shared:
    """A Redis or Valkey server through its ports. It is connected to when it is first asked something."""

    replay: ReplayStore
    buckets: SharedBuckets
    check: Callable[[], Awaitable[None]]
    """Asks the server whether it can be relied on: at the start, and for readiness. Raises SHARED_UNAVAILABLE."""
    aclose: Callable[[], Awaitable[None]]
    """Lets go of its connections."""


def open_shared(settings: Settings, clock: Clock, rng: Rng) -> Shared | None:
    """What the settings name; None for `sql`.

    Raises:
        GateError: SHARED_UNAVAILABLE if the package for it is not installed, or the CA file cannot be used.
    """
    if settings.shared == SQL:
        return None
    try:
        # Here, because they need a package that comes with an extra.
        from twogate.stores.shared.redis_buckets import RedisBuckets  # noqa: PLC0415
        from twogate.stores.shared.redis_link import RedisLink  # noqa: PLC0415
        from twogate.stores.shared.redis_replay import RedisReplayStore  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise GateError(
            ErrorCode.SHARED_UNAVAILABLE, "Redis and Valkey need the package redis: pip install 'twogate[redis]'"
        ) from error
    link = RedisLink(shared_address(settings.shared), clock, password=settings.shared_password, ca=settings.shared_ca)
    replay = RedisReplayStore(link, settings.public_url, rng)

    async def check() -> None:
        await link.check()
        await replay.remember()

    return Shared(replay, RedisBuckets(link, settings.public_url), check, link.aclose)
