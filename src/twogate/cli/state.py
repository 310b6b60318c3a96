"""Opening the store and the audit trail for one command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from twogate.app import State, open_state
from twogate.config import load_settings

T = TypeVar("T")


def with_state(config: Path, use: Callable[[State], Awaitable[T]]) -> T:
    """Load the configuration, open the state, run `use`, close the state.

    Raises:
        ConfigError, GateError: the command line's frame shows them.
    """

    async def run() -> T:
        state = await open_state(load_settings(config))
        try:
            return await use(state)
        finally:
            await state.close()

    return asyncio.run(run())
