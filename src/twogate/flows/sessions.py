"""Opening, finding and ending sessions (DESIGN decision 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from twogate.core.principal import Agent
from twogate.core.session import Session


class SessionStore(Protocol):
    """Keeps sessions. `open` decides inside one transaction, so that parallel declarations cannot pass the limit."""

    async def open(self, candidate: Session, agent: Agent, now: int) -> Session:
        """Return the principal's session for the candidate's task, storing the candidate if there is none.

        Raises:
            GateError: what `core.session.find_or_refuse` raises; STORE_UNAVAILABLE.
        """
        ...

    async def get(self, session_id: str) -> Session | None:
        """The session, live or not."""
        ...

    async def list_unexpired(self, now: int, tenant: str | None = None) -> Sequence[Session]:
        """Sessions before their deadline, ended ones included, oldest first."""
        ...

    async def end(self, session_id: str, now: int) -> Session | None:
        """End a live session and return it; None if there is none of this id. Ending twice changes nothing."""
        ...
